"use strict";

// The theme is that of the system, until the user clicks the button.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
});

// Scatter plots: a canvas with all points; the point nearest to the pointer shows its image and label.
for (const box of document.querySelectorAll(".points")) {
  const data = JSON.parse(document.getElementById(box.dataset.points).textContent);
  const [canvas, tip] = [box.querySelector("canvas"), box.querySelector(".tip")];
  const [picture, text] = [tip.querySelector("canvas"), tip.querySelector("span")];
  const sprite = document.getElementById(data.sprite);
  const [side, margin, radius] = [canvas.width, 16, 4.2];
  const place = (v) => margin + (v / 10000) * (side - 2 * margin);
  const context = canvas.getContext("2d");
  let shown = -1;

  function draw() {
    context.clearRect(0, 0, side, side);
    context.globalAlpha = 0.75;
    for (let i = 0; i < data.x.length; i++) {
      context.fillStyle = data.colours[data.labels[i]];
      context.beginPath();
      context.arc(place(data.x[i]), place(data.y[i]), radius, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
    if (shown >= 0) {
      context.strokeStyle = getComputedStyle(canvas).color;
      context.lineWidth = 3;
      context.beginPath();
      context.arc(place(data.x[shown]), place(data.y[shown]), radius + 4, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  function show(i) {
    if (i === shown) return;
    shown = i;
    tip.hidden = i < 0;
    draw();
    if (i < 0) return;
    const [column, row] = [i % data.columns, Math.floor(i / data.columns)];
    [picture.width, picture.height] = [data.width, data.height];
    picture.getContext("2d").drawImage(sprite, column * data.width, row * data.height, data.width, data.height,
      0, 0, data.width, data.height);
    text.textContent = data.classes[data.labels[i]];
    const scale = canvas.clientWidth / side;
    const [x, y] = [place(data.x[i]) * scale, place(data.y[i]) * scale];
    const right = x + 14 + tip.offsetWidth < box.clientWidth;
    tip.style.left = `${right ? x + 14 : Math.max(0, x - 14 - tip.offsetWidth)}px`;
    tip.style.top = `${Math.min(y, Math.max(0, canvas.clientHeight - tip.offsetHeight))}px`;
  }

  function nearest(event) {
    const frame = canvas.getBoundingClientRect();
    const scale = side / frame.width;
    const [x, y] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
    let [best, distance] = [-1, 24 * 24 * Math.max(1, scale * scale)];
    for (let i = 0; i < data.x.length; i++) {
      const away = (place(data.x[i]) - x) ** 2 + (place(data.y[i]) - y) ** 2;
      if (away < distance) [best, distance] = [i, away];
    }
    return best;
  }

  canvas.addEventListener("pointermove", (event) => show(nearest(event)));
  canvas.addEventListener("pointerdown", (event) => show(nearest(event)));
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(-1); });
  canvas.addEventListener("blur", () => show(-1));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!step) return;
    event.preventDefault();
    show((Math.max(shown, step < 0 ? 0 : -1) + step + data.x.length) % data.x.length);
  });
  draw();
}

// Layers: whole numbers on the slider are layers; between two of them, the upper one covers the lower one from the left.
for (const figure of document.querySelectorAll(".layers")) {
  const slider = figure.querySelector("input");
  const pictures = [...figure.querySelectorAll("[data-layer]")];
  const buttons = [...figure.querySelectorAll("[data-to]")];
  function show() {
    const at = Number(slider.value);
    pictures.forEach((picture, k) => {
      const part = Math.min(1, Math.max(0, at - k + 1)); // the share of layer k that covers the layer before it
      picture.style.clipPath = `inset(0 ${100 * (1 - part)}% 0 0)`;
    });
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(Math.round(at) === k)));
    slider.setAttribute("aria-valuetext", buttons[Math.round(at)].textContent);
  }
  slider.addEventListener("input", show);
  buttons.forEach((button) => button.addEventListener("click", () => { slider.value = button.dataset.to; show(); }));
  show();
}
