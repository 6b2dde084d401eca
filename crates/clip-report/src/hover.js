"use strict";
for (const svg of document.querySelectorAll("svg[data-lines]")) {
  const lines = JSON.parse(svg.dataset.lines);
  const output = svg.parentElement.querySelector("output");
  const cursor = svg.querySelector(".cursor");
  const width = svg.viewBox.baseVal.width;
  const nearest = (points, x) =>
    points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best), points[0]);
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    // The drawing keeps its shape inside its box, centred.
    const scale = Math.min(box.width / width, box.height / svg.viewBox.baseVal.height);
    const margin = (box.width - width * scale) / 2;
    const x = (event.clientX - box.left - margin) / scale;
    const found = lines.filter(([, points]) => points.length).map(([label, points]) => [label, nearest(points, x)]);
    if (!found.length) return;
    const at = found.reduce((best, entry) => (Math.abs(entry[1][0] - x) < Math.abs(best[1][0] - x) ? entry : best))[1];
    const values = found
      // A line without a value near here (an evaluation among steps) says nothing about here.
      .filter(([, point]) => Math.abs(point[0] - at[0]) <= 12)
      .map(([label, point]) => `${label}  ${point[2]}${svg.dataset.unit}`);
    output.textContent = [`step ${at[1].toLocaleString("en")}`, ...values].join("\n");
    output.hidden = false;
    cursor.setAttribute("d", `M${at[0]} 14V222`);
    const left = at[0] * scale + margin;
    const room = left + output.offsetWidth + 12 < box.width;
    output.style.left = `${room ? left + 10 : Math.max(0, left - output.offsetWidth - 10)}px`;
  };
  const hide = () => {
    output.hidden = true;
    cursor.setAttribute("d", "");
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
