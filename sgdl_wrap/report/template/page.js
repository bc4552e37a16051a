"use strict";
(() => {
  const STEP = matchMedia("(max-width: 42rem)").matches ? 10 : 25;
  const tables = JSON.parse(document.getElementById("data").textContent);

  // text goes in by textContent alone: an id that looks like HTML stays an id
  const made = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const percent = (x) => (100 * x).toFixed(0) + "%";
  const texts = {
    text: (x) => String(x),
    time: (x) => x,
    count: (x) => x.toLocaleString("en"),
    decimal: (x) => x.toFixed(3),
    share: (x) => percent(x[0]),
  };
  const shown = (kind, x) => (x === null ? "–" : texts[kind](x));
  const rank = (kind, x) => (kind === "share" && x !== null ? x[1] : x);

  const cell = (column, x) => {
    const numeric = column.kind === "count" || column.kind === "decimal";
    const td = made("td", numeric ? "number" : column.kind);
    if (column.kind === "text" && x !== null && x.length > 20) td.className = "text long";
    td.dataset.name = column.name;
    if (column.kind !== "share" || x === null) {
      td.append(made("span", "", shown(column.kind, x)));
      return td;
    }
    const bar = made("span", "bar"), track = made("span"), reach = made("i"), tick = made("u");
    reach.style.left = 100 * x[1] + "%";
    reach.style.width = 100 * (x[2] - x[1]) + "%";
    tick.style.left = 100 * x[0] + "%";
    track.title = percent(x[1]) + " to " + percent(x[2]);
    track.append(reach, tick);
    bar.append(made("b", "", percent(x[0])), track);
    td.append(bar);
    return td;
  };

  const show = (table) => {
    const section = made("section", table.columns.length < 5 ? "narrow" : "");
    section.id = table.id;
    section.append(made("h2", "", table.title), made("p", "caption", table.caption));
    const tools = made("div", "tools"), find = made("input"), count = made("span", "count");
    find.type = "search";
    find.placeholder = table.search;
    find.setAttribute("aria-label", table.search);
    const sortBy = made("select", "sort-by");
    sortBy.setAttribute("aria-label", "Sort by");
    table.columns.forEach((column, n) => {
      for (const [direction, word] of [[-1, "high first"], [1, "low first"]]) {
        const option = made("option", "", column.name + ", " + word);
        option.value = n + " " + direction;
        sortBy.append(option);
      }
    });
    count.setAttribute("aria-live", "polite");
    tools.append(find, sortBy, count);
    const element = made("table"), head = made("thead"), body = made("tbody");
    const names = made("tr");
    head.append(names);
    element.append(head, body);
    const more = made("button", "more");
    more.type = "button";
    section.append(tools, element, more);

    let rows = table.rows, limit = STEP, by = table.sorted, direction = -1;
    const headers = table.columns.map((column, n) => {
      const th = made("th", column.kind === "count" || column.kind === "decimal" ? "number" : "");
      th.scope = "col";
      const button = made("button", "", column.name);
      button.type = "button";
      button.addEventListener("click", () => {
        direction = by === n ? -direction : column.kind === "text" ? 1 : -1;
        by = n;
        draw();
      });
      th.append(button);
      names.append(th);
      return th;
    });
    const lower = table.rows.map((row) =>
      row.map((x, n) => shown(table.columns[n].kind, x)).join("\n").toLowerCase());

    const draw = () => {
      const wanted = find.value.trim().toLowerCase(), kind = table.columns[by].kind;
      rows = table.rows.filter((_, n) => lower[n].includes(wanted));
      rows.sort((a, b) => {
        const x = rank(kind, a[by]), y = rank(kind, b[by]);
        if (x === null || y === null) return (x === null) - (y === null); // unknown is last
        if (typeof x === "string") return direction * x.localeCompare(y, "en", { numeric: true });
        return direction * (x - y);
      });
      headers.forEach((th, n) => {
        if (n === by) th.setAttribute("aria-sort", direction < 0 ? "descending" : "ascending");
        else th.removeAttribute("aria-sort");
      });
      sortBy.value = by + " " + direction;
      body.replaceChildren(...rows.slice(0, limit).map((row) => {
        const tr = made("tr");
        tr.append(...row.map((x, n) => cell(table.columns[n], x)));
        return tr;
      }));
      count.textContent = rows.length === table.rows.length
        ? rows.length.toLocaleString("en") + " rows"
        : rows.length.toLocaleString("en") + " of " + table.rows.length.toLocaleString("en") + " rows";
      more.hidden = rows.length <= limit;
      more.textContent = "Show " + Math.min(4 * STEP, rows.length - limit) + " more";
    };
    find.addEventListener("input", () => { limit = STEP; draw(); });
    sortBy.addEventListener("change", () => {
      [by, direction] = sortBy.value.split(" ").map(Number);
      draw();
    });
    more.addEventListener("click", () => { limit += 4 * STEP; draw(); });
    draw();
    document.getElementById("tables").append(section);
  };
  tables.forEach(show);
})();
