"use strict";
{
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches; // where a drag scrolls the page
  const packed = (key) => document.getElementById(`packed-${key}`);
  const drawn = new Map(); // chart's element -> its figure
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: touch ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // none that leaves the page
  };
  let themes, figures;
  let printing = false;

  async function unpack(key) {
    const text = atob(packed(key).textContent);
    const bytes = new Uint8Array(text.length); // filled by hand: Uint8Array.from takes 0.2 s for Plotly
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).text();
  }

  // Charts, in the theme that is shown

  const theme = () => (printing ? "light" : root.dataset.theme || (system.matches ? "dark" : "light"));

  function draw(element, figure) {
    const layout = { ...figure.layout, template: themes[theme()], autosize: true };
    if (touch) layout.dragmode = false;
    if (printing) layout.width = 680;
    drawn.set(element, figure);
    Plotly.react(element, figure.data, layout, config);
  }

  function redraw() {
    for (const [element, figure] of drawn) {
      if (element.isConnected) draw(element, figure);
      else drawn.delete(element);
    }
  }

  function show(element) {
    if (drawn.has(element)) return;
    draw(element, figures[element.dataset.chart]);
    if (element.id.startsWith("errors-")) element.on("plotly_click", ({ points: [point] }) => {
      const run = element.id.slice("errors-".length);
      const page = `#layer-${run}-${point.data.meta}-${point.x}`;
      const row = document.getElementById(`row-${run}-${point.x}`);
      if (document.querySelector(`a[href="${page}"]`)) location.hash = page;
      else if (row) row.scrollIntoView({ block: "center" });
    });
  }

  function label() {
    document.getElementById("theme").textContent = theme() === "dark" ? "Light" : "Dark";
  }

  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    label();
    redraw();
  });
  system.addEventListener("change", () => { label(); redraw(); });
  label();

  // Tables: numbers by their value, the rest by name, what was not measured last

  const key = (row, column) => {
    const text = row.cells[column].textContent.trim().replace(/^\*/, "");
    if (row.cells[column].matches("th, .name")) return text;
    const number = text === "∞" ? Infinity : parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };

  function order(a, b) {
    const numbers = (typeof a === "number") + (typeof b === "number");
    if (numbers === 1) return 0;
    return numbers ? a - b : a.localeCompare(b, undefined, { numeric: true });
  }

  document.addEventListener("click", (event) => {
    const header = event.target.closest("thead th");
    if (!header || !event.target.closest("button")) return;
    const body = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].filter((row) => row.cells.length > 1).map((row) => [key(row, column), row]);
    const numeric = rows.some(([value]) => typeof value === "number");
    const last = ([value]) => numeric && typeof value !== "number";
    rows.sort((a, b) => last(a) - last(b) || (up ? 1 : -1) * order(a[0], b[0]));
    body.append(...rows.map(([, row]) => row));
  });

  // A layer's page: the address after # names it

  const dialog = document.getElementById("layer");
  const pages = new Map(); // packed part -> its pages

  async function open() {
    const [, part] = location.hash.match(/^#layer-(\d+-\d+)-\d+$/) || [];
    if (!part || !packed(`pages-${part}`)) {
      if (dialog.open) dialog.close();
      return;
    }
    if (!pages.has(part)) pages.set(part, JSON.parse(await unpack(`pages-${part}`)));
    const page = pages.get(part)[location.hash.slice(1)];
    if (!page) return;
    document.getElementById("layer-name").textContent = page.name;
    document.getElementById("layer-facts").replaceChildren(...page.facts.map(([name, value]) => {
      const row = document.createElement("tr");
      const [head, cell] = [document.createElement("th"), document.createElement("td")];
      head.scope = "row";
      head.textContent = name;
      cell.textContent = value;
      row.append(head, cell);
      return row;
    }));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    document.getElementById("layer-charts").replaceChildren();
    for (const [title, words, figure] of page.figures) {
      const [whole, caption, element] = ["figure", "figcaption", "div"].map((tag) => document.createElement(tag));
      caption.textContent = title;
      element.setAttribute("role", "img");
      element.setAttribute("aria-label", `${title}. ${words}`);
      whole.append(caption, element);
      document.getElementById("layer-charts").append(whole);
      draw(element, figure);
    }
  }

  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#layer-")) history.replaceState(null, "", location.pathname + location.search);
  });

  // Pictures and sounds of samples: each is in the page once, and set where it is shown

  async function fill() {
    const elements = document.querySelectorAll("[data-media]");
    if (!elements.length) return;
    const media = JSON.parse(await unpack("media"));
    for (const element of elements) element.src = media[element.dataset.media];
  }

  async function start() {
    await fill();
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
    [figures, themes] = await Promise.all(["figures", "themes"].map(async (name) => JSON.parse(await unpack(name))));
    const charts = [...document.querySelectorAll("[data-chart]")];
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) show(entry.target);
    }, { rootMargin: "400px" });
    charts.forEach((element) => near.observe(element));
    addEventListener("beforeprint", () => { printing = true; charts.forEach(show); redraw(); });
    addEventListener("afterprint", () => { printing = false; redraw(); });
    addEventListener("hashchange", open);
    await open();
  }
  start();
}
