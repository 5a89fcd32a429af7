"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const data = JSON.parse(by("data").textContent);
  const slider = by("slider"), stage = by("stage"), chart = by("chart"), now = by("now"), outline = by("outline");
  const last = data.pictures.length;

  function show(slice) {
    const index = Math.min(Math.max(slice, 1), last) - 1;
    const area = data.areas[index];
    const place = `Slice ${index + 1} of ${last}: ` + (area ? `${area} ${data.unit}` : "nothing marked");
    slider.value = index + 1;
    slider.setAttribute("aria-valuetext", place);
    by("place").textContent = place;
    by("picture").setAttribute("href", "data:image/jpeg;base64," + data.pictures[index]);
    stage.setAttribute("aria-label", "FLAIR, " + place);
    for (const path of outline.children) path.setAttribute("d", data.outlines[index]);
    now.setAttribute("x", data.left + index * data.step);
  }

  const step = (by) => show(Number(slider.value) + by);
  slider.addEventListener("input", () => show(Number(slider.value)));
  by("back").addEventListener("click", () => step(-1));
  by("forth").addEventListener("click", () => step(1));
  by("shown").addEventListener("change", (event) => outline.classList.toggle("hidden", !event.target.checked));
  stage.addEventListener("click", () => slider.focus({ preventScroll: true }));

  let turned = 0;
  stage.addEventListener("wheel", (event) => {
    const value = Number(slider.value), ahead = event.deltaY > 0;
    if (event.ctrlKey || !event.deltaY || (ahead ? value === last : value === 1)) return;
    event.preventDefault();
    turned += event.deltaMode ? Math.sign(event.deltaY) * 40 : event.deltaY;
    const steps = Math.trunc(turned / 40);
    turned -= steps * 40;
    if (steps) step(steps);
  }, { passive: false });

  document.addEventListener("keydown", (event) => {
    const step_by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step_by || event.altKey || event.ctrlKey || event.metaKey || event.target === slider) return;
    event.preventDefault();
    step(step_by);
  });

  chart.addEventListener("click", (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    show(Math.floor((place.x - data.left) / data.step) + 1);
  });

  show(Number(slider.value)); // a browser may have kept another place from before the page was loaded again
  outline.classList.toggle("hidden", !by("shown").checked);
})();
