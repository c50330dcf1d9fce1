// A lesson is in the theme that was chosen in the playground; what scrolls can be reached by keyboard.

import { stored } from "./stored.js";

document.documentElement.dataset.theme = stored("theme") ?? "auto";
for (const block of document.querySelectorAll("pre")) block.tabIndex = 0;
