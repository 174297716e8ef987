// The projected balance as a line. The same numbers stand in the table beside it.
import uPlot from "../vendor/uplot.js";

const MICROS_PER_USD = 1_000_000;
const HEIGHT = 280;
const dollars = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", maximumFractionDigits: 0 });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(width, hasThreshold) {
  const axis = { stroke: colour("--ink-soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px sans-serif" };
  const series = [
    {},
    { stroke: colour("--spruce"), width: 2.5, fill: colour("--spruce-soft"), points: { show: false }, pxAlign: 0 },
  ];
  if (hasThreshold) series.push({ stroke: colour("--amber-fill"), width: 2, dash: [7, 5], points: { show: false } });
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    padding: [12, 24, 0, 0],
    scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low), Math.max(high * 1.1, 1)] } },
    axes: [
      { ...axis, grid: { show: false }, space: 70, gap: 8, values: (_, splits) => splits.map((at) => day.format(at * 1000)) },
      { ...axis, size: 52, gap: 8, values: (_, splits) => splits.map((value) => dollars.format(value)) },
    ],
    series,
  };
}

function draw(figure) {
  const { times, balances_micros: balances, threshold_micros: threshold } = JSON.parse(figure.dataset.projection);
  const data = [times, balances.map((micros) => micros / MICROS_PER_USD)];
  if (threshold !== null) data.push(times.map(() => threshold / MICROS_PER_USD));
  figure.replaceChildren();
  return new uPlot(options(figure.clientWidth, threshold !== null), data, figure);
}

export function drawAll() {
  for (const figure of document.querySelectorAll("[data-projection]")) {
    let plot = draw(figure);
    let width = figure.clientWidth;
    new ResizeObserver(() => {
      if (figure.clientWidth !== width) {
        width = figure.clientWidth;
        plot.setSize({ width, height: HEIGHT });
      }
    }).observe(figure);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      plot.destroy();
      plot = draw(figure);
    });
  }
}
