// Values under the pointer: the nearest point of every line, in a box beside it. Arrow keys move along a chart.
for (const figure of document.querySelectorAll("[data-chart]")) {
  const { x, domain, log, counted, series } = JSON.parse(figure.dataset.chart);
  const area = figure.querySelector(".area");
  const make = (name, parent) => Object.assign(parent.appendChild(document.createElement("div")), { className: name });
  const cross = make("cross", area), box = make("box", area);
  const dots = series.map((line) => make(`dot c${line.color}`, area));
  const known = series.map((line) => line.points.filter((point) => point[1] !== null));
  const steps = [...new Set(known.flat().map((point) => point[0]))].sort((a, b) => a - b);
  const along = (at) =>
    counted ? Math.log1p(at) / Math.log1p(domain[1]) : (at - domain[0]) / (domain[1] - domain[0] || 1);
  const height = log
    ? (value) => Math.log(value / domain[2]) / Math.log(domain[3] / domain[2])
    : (value) => (value - domain[2]) / (domain[3] - domain[2]);
  const nearest = (points, at, place) => {  // by halving: points rise
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (place(points[middle]) < at) low = middle; else high = middle;
    }
    return at - place(points[low]) <= place(points[high]) - at ? low : high;
  };
  const format = (value) =>
    Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en")
      : value && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(4));
  let current = -1;
  const show = (index) => {
    current = Math.max(0, Math.min(steps.length - 1, index));
    const at = steps[current], share = along(at);
    cross.style.left = `${100 * share}%`;
    box.replaceChildren(make("", box));
    box.firstChild.textContent = `${x} ${format(at)}`;
    series.forEach((line, number) => {
      const points = known[number], point = points[nearest(points, at, (p) => p[0])];
      const near = share > along(points[0][0]) - 0.05 && share < along(points[points.length - 1][0]) + 0.05;
      dots[number].hidden = !near;
      if (!near) return;
      dots[number].style.left = `${100 * along(point[0])}%`;
      dots[number].style.bottom = `${100 * height(point[1])}%`;
      const row = make(`c${line.color}`, box), value = document.createElement("b");
      value.textContent = format(point[1]);
      row.append(value, ` ${line.name}`, point[0] === at ? "" : ` at ${format(point[0])}`);
    });
    const place = share * area.clientWidth, room = area.clientWidth - box.offsetWidth;
    const beside = place + 12 <= room ? place + 12 : place - 12 - box.offsetWidth;
    box.style.left = `${Math.min(Math.max(beside, 0), Math.max(room, 0))}px`; // over the line rather than off the page
    figure.classList.add("live");
  };
  area.addEventListener("pointermove", (event) => {
    const frame = area.getBoundingClientRect();
    show(nearest(steps, (event.clientX - frame.left) / frame.width, along));
  });
  for (const leaving of ["pointerleave", "blur"])
    (leaving === "blur" ? figure : area).addEventListener(leaving, () => figure.classList.remove("live"));
  figure.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    show(current + move);
  });
}
