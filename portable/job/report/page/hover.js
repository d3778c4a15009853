// Under the pointer: the nearest step and each curve's value there. The page is complete without it.
for (const chart of document.querySelectorAll(".chart")) {
  const curves = JSON.parse(chart.dataset.curves);
  const [low, high] = chart.dataset.x.split(",").map(Number);
  const plot = chart.querySelector(".plot");
  const rule = plot.appendChild(Object.assign(document.createElement("div"), { className: "hair", hidden: true }));
  const note = rule.appendChild(document.createElement("div"));
  plot.addEventListener("pointerleave", () => { rule.hidden = true; });
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const wanted = low + share * (high - low);
    const nearest = (points) => points.reduce((a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a));
    const found = curves.map((curve) => [curve, nearest(curve.points)]);
    const step = found[0][1][0];
    rule.hidden = false;
    rule.style.left = `${(100 * (step - low)) / (high - low)}%`;
    rule.classList.toggle("left", share > 0.6);
    const lines = found.map(([curve, point]) => (found.length > 1 ? `${curve.label}: ${point[1]}` : `${point[1]}`));
    note.textContent = [`${chart.dataset.xName} ${step.toLocaleString("en")}`, ...lines].join("\n");
  });
}
