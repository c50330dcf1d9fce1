// A lesson is in the theme that was chosen in the playground; what scrolls can be reached by keyboard.

document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
for (const block of document.querySelectorAll("pre")) block.tabIndex = 0;
