"use strict";
(() => {
  const STATUS = ["done", "rejected", "failed"];
  const FLAGS = { still: "nothing moves", saturated: "beyond the bound", camera: "camera not found",
                  outside: "leaves the frame", remark: "with a remark" };
  const TITLES = { frames: "Frames", speed: "Mean px", speed_p95: "p95 px", saturated: "At the bound",
                   still: "Still", outside: "Outside", camera: "Camera found", seconds: "Seconds" };
  const SHARES = new Set(["saturated", "still", "outside", "camera"]);
  const STEP = 100;
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const rows = read("rows");
  const columns = read("columns");
  const [NAME, STATE, REASON, FLAG, FIRST] = [0, 1, 2, 3, 4];
  const $ = id => document.getElementById(id);
  const texts = rows.map(row => (row[NAME] + "\n" + row[REASON]).toLowerCase());
  let filter = "", limit = STEP, sort = { column: -1, down: false };

  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const belongs = row => !filter || STATUS[row[STATE]] === filter || row[FLAG].split(" ").includes(filter);
  const format = (name, value) => {
    if (value === null) return "–";
    if (SHARES.has(name)) return (100 * value).toFixed(1) + " %";
    return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(3)));
  };

  function chosen() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    rows.forEach((row, i) => { if (belongs(row) && words.every(word => texts[i].includes(word))) found.push(row); });
    if (sort.column >= 0) {
      const sign = sort.down ? -1 : 1;
      found.sort((a, b) => {
        const [p, q] = [a[sort.column], b[sort.column]];
        if (p === q) return 0;
        if (p === null || q === null) return p === null ? 1 : -1;
        return sign * (p < q ? -1 : 1);
      });
    }
    return found;
  }

  function show() {
    const found = chosen();
    const body = $("table").tBodies[0];
    body.replaceChildren(...found.slice(0, limit).map(row => {
      const line = element("tr");
      const name = element("td", row[NAME], "path");
      if (row[REASON]) { name.append(element("br"), element("span", row[REASON], "faint")); }
      const state = element("td");
      state.append(element("span", STATUS[row[STATE]], "badge " + STATUS[row[STATE]]));
      line.append(name, state);
      columns.forEach((column, i) => line.append(element("td", format(column, row[FIRST + i]), "right")));
      return line;
    }));
    const part = rows.length < VIDEOS
      ? ` of the ${rows.length.toLocaleString("en")} listed here (of ${VIDEOS.toLocaleString("en")} in all: problems and outliers first, then a random sample; the records hold every one)`
      : ` of ${VIDEOS.toLocaleString("en")}`;
    $("shown").textContent = `${found.length.toLocaleString("en")}${part}`;
    $("more").hidden = found.length <= limit;
  }

  function heading() {
    const line = element("tr");
    const titles = [["Video", NAME], ["Status", STATE], ...columns.map((column, i) => [TITLES[column], FIRST + i])];
    for (const [title, column] of titles) {
      const cell = element("th", undefined, column >= FIRST ? "right" : "");
      const button = element("button", title);
      button.type = "button";
      button.addEventListener("click", () => {
        sort = { column, down: sort.column === column ? !sort.down : column >= FIRST };
        heading(); show();
      });
      if (sort.column === column) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      cell.append(button);
      line.append(cell);
    }
    $("table").tHead.replaceChildren(line);
  }

  function filters() {
    const counts = {};
    for (const row of rows) {
      for (const key of [STATUS[row[STATE]], ...row[FLAG].split(" ").filter(Boolean)]) counts[key] = (counts[key] || 0) + 1;
    }
    const keys = ["", "failed", "rejected", ...Object.keys(FLAGS)].filter(key => !key || counts[key]);
    $("filters").replaceChildren(...keys.map(key => {
      const button = element("button", key ? FLAGS[key] || key : "all");
      button.type = "button";
      button.setAttribute("aria-pressed", String(key === filter));
      button.addEventListener("click", () => choose(key));
      return button;
    }));
  }

  function choose(key) { filter = key; limit = STEP; filters(); show(); }
  function goTo() { $("videos").scrollIntoView(); }

  $("search").addEventListener("input", () => { limit = STEP; show(); });
  $("more").addEventListener("click", () => { limit += 2 * STEP; show(); });
  for (const button of document.querySelectorAll("[data-find]")) {
    button.addEventListener("click", () => { $("search").value = button.dataset.find; choose(""); goTo(); });
  }
  for (const button of document.querySelectorAll("[data-flag]")) {
    button.addEventListener("click", () => { $("search").value = ""; choose(button.dataset.flag); goTo(); });
  }
  heading(); filters(); show();
})();
