// Draws candles, volume and VWAP of one symbol with TradingView's Lightweight Charts (in this directory).
//
// Python sends `data` with every run of the page's fragment:
//   about       symbol, timeframe and range; a new value fits the chart to the width
//   generation  name of the series; a new name redraws the full series
//   rows        the full series; null if Python has already sent it
//   changed     bars added or changed since the full series was sent
//   places      decimals of the series' prices
//   title       title of the legend
//   palette     colours of both themes
// A row is [open time in s, open, high, low, close, volume, vwap, trades, state]. Numbers are exact text, which the
// legend shows with thousands separators; only drawing uses floats. Times are UTC: YYYY-MM-DD HH:MM.

import {
  CandlestickSeries,
  CrosshairMode,
  HistogramSeries,
  LineSeries,
  createChart,
} from "./lightweight-charts.js";

const [TIME, OPEN, HIGH, LOW, CLOSE, VOLUME, VWAP, TRADES, STATE] = Array(9).keys();
const FINAL = "final"; // a bar that is proven complete
const PAN_BARS = 10;
const MAX_BAR_SPACING = 120; // pixels
const LEGEND = [["O", OPEN], ["H", HIGH], ["L", LOW], ["C", CLOSE], ["Volume", VOLUME], ["VWAP", VWAP], ["Trades", TRADES]];
const GROUPS = /\B(?=(\d{3})+$)/g; // where an integer has thousands separators
const drawings = new WeakMap();

export default function render({ data, parentElement, setTriggerValue }) {
  let drawing = drawings.get(parentElement);
  if (!drawing) {
    drawing = new Drawing(parentElement);
    drawings.set(parentElement, drawing);
  }
  drawing.show(data, setTriggerValue);
  return () => {
    drawing.remove();
    drawings.delete(parentElement);
  };
}

class Drawing {
  constructor(parent) {
    this.parent = parent;
    this.root = parent.querySelector(".chart");
    this.legend = parent.querySelector(".legend");
    this.generation = null;
    this.rows = new Map();
    this.chart = createChart(this.root, {
      autoSize: true,
      crosshair: { mode: CrosshairMode.Normal },
      layout: { attributionLogo: true, panes: { enableResize: true } },
      localization: { timeFormatter: minute },
      // The legend is in the margin above the candles.
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.16, bottom: 0.06 } },
      // The first bars of a symbol must not fill the chart: it would keep their width.
      timeScale: { borderVisible: false, timeVisible: true, secondsVisible: false, maxBarSpacing: MAX_BAR_SPACING },
    });
    const plain = { lastValueVisible: false, priceLineVisible: false };
    this.candles = this.chart.addSeries(CandlestickSeries, {});
    this.vwap = this.chart.addSeries(LineSeries, { ...plain, lineWidth: 1, crosshairMarkerVisible: false });
    this.volume = this.chart.addSeries(HistogramSeries, { ...plain, priceFormat: { type: "volume" } }, 1);
    this.chart.panes()[0].setStretchFactor(4);
    this.chart.panes()[1].setStretchFactor(1);
    this.chart.subscribeCrosshairMove((event) => {
      this.hovered = event.time ?? null;
      this.updateLegend();
    });
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range) this.report({ from: range.from.toFixed(3), to: range.to.toFixed(3) });
    });
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  show(data, setTriggerValue) {
    this.data = data;
    this.applyTheme();
    if (data.generation !== this.generation) {
      if (data.rows === null) {
        // The browser has lost the series, because another page was shown in between.
        setTriggerValue("resync", data.generation);
        return;
      }
      this.draw(data.rows, data.about !== this.about);
      this.generation = data.generation;
      this.about = data.about;
    }
    data.changed.forEach((row) => this.update(row));
    this.updateLegend();
    this.report({ about: this.about, bars: this.rows.size, last: JSON.stringify(this.newest ?? null) });
  }

  // Set facts as data attributes of the element, for browser tests.
  report(facts) {
    Object.assign(this.root.dataset, facts);
  }

  count(fact) {
    this.report({ [fact]: Number(this.root.dataset[fact] ?? 0) + 1 });
  }

  draw(rows, fit) {
    const began = performance.now();
    const range = fit ? null : this.chart.timeScale().getVisibleRange();
    this.rows = new Map(rows.map((row) => [row[TIME], row]));
    this.newest = rows[rows.length - 1];
    this.colour();
    if (range) this.chart.timeScale().setVisibleRange(range);
    else this.chart.timeScale().fitContent();
    this.count("draws");
    // The bars are painted in the next frame; the frame after that measures the end.
    requestAnimationFrame(() =>
      requestAnimationFrame(() => this.report({ drawnMs: Math.round(performance.now() - began) })),
    );
  }

  colour() {
    const rows = [...this.rows.values()];
    this.candles.setData(rows.map((row) => this.candle(row)));
    this.vwap.setData(rows.map((row) => ({ time: row[TIME], value: Number(row[VWAP]) })));
    this.volume.setData(rows.map((row) => this.bar(row)));
  }

  // Add or change one bar. Keeps zoom and pan.
  update(row) {
    const known = this.rows.get(row[TIME]);
    if (known && known.every((value, index) => value === row[index])) return;
    const historical = this.newest !== undefined && row[TIME] < this.newest[TIME];
    if (historical && !known) {
      // A new bar between others: the library can only append, so set all bars.
      this.rows = new Map([...this.rows, [row[TIME], row]].sort((one, other) => one[0] - other[0]));
      const range = this.chart.timeScale().getVisibleRange();
      this.colour();
      if (range) this.chart.timeScale().setVisibleRange(range);
      this.count("inserts");
      return;
    }
    this.rows.set(row[TIME], row);
    if (!historical) this.newest = row;
    this.candles.update(this.candle(row), historical);
    this.vwap.update({ time: row[TIME], value: Number(row[VWAP]) }, historical);
    this.volume.update(this.bar(row), historical);
    this.count("updates");
  }

  candle(row) {
    const rises = Number(row[CLOSE]) >= Number(row[OPEN]);
    const colour = rises ? this.palette.up : this.palette.down;
    return {
      time: row[TIME],
      open: Number(row[OPEN]),
      high: Number(row[HIGH]),
      low: Number(row[LOW]),
      close: Number(row[CLOSE]),
      // Rising bars are hollow, so that direction does not depend on colour alone; bars that are not final are pale.
      color: rises ? this.palette.background : faded(colour, row[STATE]),
      borderColor: faded(colour, row[STATE]),
      wickColor: faded(colour, row[STATE]),
    };
  }

  bar(row) {
    const rises = Number(row[CLOSE]) >= Number(row[OPEN]);
    return { time: row[TIME], value: Number(row[VOLUME]), color: `${rises ? this.palette.up : this.palette.down}88` };
  }

  // Apply the colours of the page's theme, which may change at any time.
  applyTheme() {
    const style = getComputedStyle(this.root);
    const themed = (name) => style.getPropertyValue(name).trim();
    const background = themed("--st-background-color") || "#ffffff";
    const key = `${background} ${this.data.places}`;
    if (key === this.theme) return;
    this.theme = key;
    this.palette = { ...this.data.palette[isDark(background) ? "dark" : "light"], background };
    const line = themed("--st-border-color") || "#8884";
    this.chart.applyOptions({
      layout: {
        background: { color: background },
        textColor: themed("--st-text-color") || "#333333",
        fontFamily: themed("--st-font") || "sans-serif",
        panes: { separatorColor: line },
      },
      grid: { vertLines: { color: line }, horzLines: { color: line } },
    });
    const minMove = Number(`1e-${this.data.places}`);
    const format = new Intl.NumberFormat("en-US", {
      minimumFractionDigits: this.data.places,
      maximumFractionDigits: this.data.places,
    });
    const priceFormat = { type: "custom", formatter: (price) => format.format(price), minMove };
    this.candles.applyOptions({ priceFormat, priceLineColor: this.palette.neutral });
    this.vwap.applyOptions({ priceFormat, color: this.palette.accent });
    if (this.rows.size) this.colour();
  }

  // Show the bar under the pointer in the legend, or the newest one.
  updateLegend() {
    const row = this.rows.get(this.hovered) ?? this.newest;
    const parts = [element("strong", this.data.title)];
    if (row) {
      parts.push(element("span", `${minute(row[TIME])} UTC`));
      LEGEND.forEach(([name, index]) => parts.push(element("span", `${name} `, element("b", this.text(row, index)))));
      if (row[STATE] !== FINAL) parts.push(element("em", row[STATE]));
    }
    this.legend.replaceChildren(...parts);
    this.root.setAttribute("aria-label", `Candlestick chart. ${this.legend.textContent}`);
  }

  // Return a number with all digits and thousands separators; prices with the decimals of the series.
  text(row, index) {
    const [whole, decimals = ""] = String(row[index]).split(".");
    const places = index < OPEN || index > CLOSE ? 0 : this.data.places;
    const padded = decimals.padEnd(places, "0");
    return whole.replace(GROUPS, ",") + (padded && `.${padded}`);
  }

  // Arrows pan, plus and minus zoom, Home fits all bars, End scrolls to the newest bar.
  key(event) {
    const scale = this.chart.timeScale();
    const range = scale.getVisibleLogicalRange();
    if (!range) return;
    const quarter = (range.to - range.from) / 4;
    const moves = {
      ArrowLeft: () => scale.setVisibleLogicalRange({ from: range.from - PAN_BARS, to: range.to - PAN_BARS }),
      ArrowRight: () => scale.setVisibleLogicalRange({ from: range.from + PAN_BARS, to: range.to + PAN_BARS }),
      "+": () => scale.setVisibleLogicalRange({ from: range.from + quarter, to: range.to - quarter }),
      "-": () => scale.setVisibleLogicalRange({ from: range.from - quarter, to: range.to + quarter }),
      Home: () => scale.fitContent(),
      End: () => scale.scrollToRealTime(),
    };
    const move = moves[event.key === "=" ? "+" : event.key];
    if (!move) return;
    event.preventDefault();
    move();
  }

  remove() {
    this.chart.remove();
  }
}

function minute(seconds) {
  return new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
}

function element(tag, ...content) {
  const created = document.createElement(tag);
  created.append(...content);
  return created;
}

function faded(colour, state) {
  return state === FINAL ? colour : `${colour}99`;
}

function isDark(colour) {
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = colour;
  const digits = Number.parseInt(probe.fillStyle.slice(1), 16);
  const [red, green, blue] = [digits >> 16, (digits >> 8) & 255, digits & 255];
  return 0.299 * red + 0.587 * green + 0.114 * blue < 128;
}
