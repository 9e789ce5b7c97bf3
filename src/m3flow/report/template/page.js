"use strict";
(() => {
  const STEP = 100;
  const $ = id => document.getElementById(id);
  const read = id => JSON.parse($(id).textContent);
  const rows = read("rows");
  const about = read("about");
  const [NAME, STATUS, REASON, FLAGS, CLASS, FIRST] = [0, 1, 2, 3, 4, 5];
  const texts = rows.map(row => (row[NAME] + "\n" + row[REASON]).toLowerCase());
  const sheets = new Map([...document.querySelectorAll("img.sheet")].map(image => [image.dataset.name, image]));
  const withClass = about.classes.length > 1;
  const chosen = { status: -1, class: -1, flag: "" };
  let limit = STEP, sort = { column: -1, down: false };

  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const count = number => (number || 0).toLocaleString("en");
  const format = (column, value) => {
    if (value === null) return "–";
    if (column.share) return (100 * value).toFixed(1) + " %";
    return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(3)));
  };

  function found() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const belongs = row => (chosen.status < 0 || row[STATUS] === chosen.status)
      && (chosen.class < 0 || row[CLASS] === chosen.class)
      && (!chosen.flag || row[FLAGS].split(" ").includes(chosen.flag));
    const left = rows.filter((row, i) => belongs(row) && words.every(word => texts[i].includes(word)));
    if (sort.column < 0) return left;
    const sign = sort.down ? -1 : 1;
    return left.sort((a, b) => {
      const [p, q] = [a[sort.column], b[sort.column]];
      if (p === q) return 0;
      if (p === null || q === null) return p === null ? 1 : -1;
      return sign * (p < q ? -1 : 1);
    });
  }

  const quoted = text => /^[\w.\/:=@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
  function command(name) {
    const root = about.roots[name] ?? about.roots[""];
    return ["m3flow", "show", name, ...(root ? ["--root", root] : []), ...about.options].map(quoted).join(" ");
  }

  // The details of a row: its sheet, if the page has it, and the command for the picture or a film.
  function opened(row) {
    const line = element("tr", undefined, "opened");
    const cell = element("td");
    cell.colSpan = $("table").tHead.rows[0].cells.length;
    const sheet = sheets.get(row[NAME]);
    if (sheet) {
      const image = element("img", undefined, "sheet");
      image.src = sheet.src;
      image.alt = sheet.alt;
      cell.append(image);
    }
    cell.append(element("p", sheet ? "A larger sheet, or with --mp4 a film:" : "Its contact sheet, or with --mp4 a film:", "faint"));
    cell.append(element("code", command(row[NAME]), "command"));
    line.append(cell);
    return line;
  }

  function toggle(button, row) {
    const line = button.closest("tr");
    const open = button.getAttribute("aria-expanded") === "true";
    if (open) line.nextElementSibling.remove();
    else line.after(opened(row));
    button.setAttribute("aria-expanded", String(!open));
  }

  function lineOf(row) {
    const line = element("tr");
    const name = element("td", undefined, "path");
    if (about.statuses[row[STATUS]] === "done") {
      const button = element("button", row[NAME], "link path");
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => toggle(button, row));
      name.append(button);
    } else name.append(row[NAME]);
    if (row[REASON]) name.append(element("br"), element("span", row[REASON], "faint"));
    const status = element("td");
    status.append(element("span", about.statuses[row[STATUS]], "badge " + about.statuses[row[STATUS]]));
    line.append(name, status);
    if (withClass) line.append(element("td", about.classes[row[CLASS]] ?? "–", "class"));
    about.columns.forEach((column, i) => line.append(element("td", format(column, row[FIRST + i]), "right")));
    return line;
  }

  function show() {
    const left = found();
    $("table").tBodies[0].replaceChildren(...left.slice(0, limit).map(lineOf));
    const part = rows.length < about.videos
      ? ` of the ${count(rows.length)} listed here (of ${count(about.videos)} in all: problems and outliers first, then a random sample; the records hold every one)`
      : ` of ${count(about.videos)}`;
    $("shown").textContent = count(left.length) + part;
    $("more").hidden = left.length <= limit;
  }

  function heading() {
    const line = element("tr");
    const titles = [["Video", NAME], ["Status", STATUS], ...(withClass ? [["Class", CLASS]] : []),
                    ...about.columns.map((column, i) => [column.heading, FIRST + i])];
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

  function chips() {
    const numbers = [-1, ...about.statuses.keys()].filter(i => i < 0 || about.counts.status[about.statuses[i]]);
    $("statuses").replaceChildren(...numbers.map(i => {
      const name = about.statuses[i];
      const button = element("button", i < 0 ? "all" : `${name} ${count(about.counts.status[name])}`);
      button.type = "button";
      button.setAttribute("aria-pressed", String(i === chosen.status));
      button.addEventListener("click", () => choose({ status: i }));
      return button;
    }));
  }

  function menu(id, first, entries) {
    const options = [["", first], ...entries].map(([value, text]) => {
      const option = element("option", text);
      option.value = value;
      return option;
    });
    $(id).replaceChildren(...options);
    $(id).hidden = entries.length === 0;
  }

  function choose(change) {
    Object.assign(chosen, change);
    limit = STEP;
    $("class").value = chosen.class < 0 ? "" : String(chosen.class);
    $("flag").value = chosen.flag;
    chips(); show();
  }
  function only(text, change) {
    $("search").value = text;
    choose({ status: -1, class: -1, flag: "", ...change });
    $("videos").scrollIntoView();
  }

  menu("class", "all classes", withClass
    ? about.classes.map((name, i) => [String(i), `${name} · ${count(about.counts.class[name])}`]) : []);
  menu("flag", "worth a look or not", Object.entries(about.flags).filter(([key]) => about.counts.flag[key])
    .map(([key, name]) => [key, `${name} · ${count(about.counts.flag[key])}`]));
  $("class").addEventListener("change", event => choose({ class: event.target.value === "" ? -1 : Number(event.target.value) }));
  $("flag").addEventListener("change", event => choose({ flag: event.target.value }));
  $("search").addEventListener("input", () => { limit = STEP; show(); });
  $("more").addEventListener("click", () => { limit += 2 * STEP; show(); });
  for (const button of document.querySelectorAll("[data-find]")) {
    button.addEventListener("click", () => only(button.dataset.find, {}));
  }
  for (const button of document.querySelectorAll("[data-flag]")) {
    button.addEventListener("click", () => only("", { flag: button.dataset.flag }));
  }
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    for (const animation of document.querySelectorAll(".animation")) animation.open = false;
  }
  heading(); choose({});
})();
