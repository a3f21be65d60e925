// The board of tz.play, for the page and for the notebook. It draws the views that Python sends, and turns clicks into
// messages: `ask(message)` returns a promise of the next view. No rule of any game is known here.

const STYLE = `
.tzp { --ink:#1f262c; --soft:#66717b; --line:#d9dee3; --card:#ffffff; --ground:#f4f6f8; --accent:#0b6bb5; --warn:#a23b12;
  color:var(--ink); background:var(--ground); font:15px/1.45 "Segoe UI",Roboto,"DejaVu Sans",Arial,sans-serif;
  display:flex; flex-wrap:wrap; gap:20px; padding:20px; border-radius:12px; box-sizing:border-box; align-items:flex-start }
.tzp *, .tzp *::before { box-sizing:border-box }
.tzp .left { display:flex; gap:12px; flex:1 1 420px; max-width:660px; min-width:280px }
.tzp .bar { position:relative; width:22px; border-radius:6px; overflow:hidden; border:1px solid #8b949c; align-self:stretch; flex:none }
.tzp .bar .fill { position:absolute; left:0; right:0; bottom:0; transition:height .35s ease }
.tzp .bar .mid { position:absolute; left:0; right:0; top:50%; border-top:1px dashed #9aa3ab }
.tzp .wrap { position:relative; flex:1; background:var(--card); border-radius:10px; padding:10px; box-shadow:0 1px 4px #0000001f }
.tzp .area { position:relative }
.tzp .area > svg, .tzp .area .pic > svg { display:block; width:100%; height:auto }
.tzp .area .hits { position:absolute; inset:0; width:100%; height:100% }
.tzp .hit { fill:transparent; cursor:default }
.tzp .hit.can { cursor:pointer }
.tzp .hit.can:hover { fill:#0b6bb533 }
.tzp .hit.on { fill:#0b6bb555; stroke:#0b6bb5; stroke-width:3 }
.tzp .hit.to { fill:#0b6bb52b }
.tzp .side { flex:1 1 270px; max-width:400px; display:flex; flex-direction:column; gap:12px; min-width:250px }
.tzp .card { background:var(--card); border-radius:10px; padding:12px 14px; box-shadow:0 1px 4px #0000001f }
.tzp .status { font-size:19px; font-weight:600; display:flex; align-items:center; gap:9px; min-height:30px }
.tzp .who { display:flex; align-items:center; gap:8px; color:var(--soft); margin-top:5px }
.tzp .who.now { color:var(--ink); font-weight:600 }
.tzp .dot { width:15px; height:15px; border-radius:50%; border:1px solid #555; flex:none }
.tzp .spin { width:15px; height:15px; border:2.5px solid #c4ccd3; border-top-color:var(--accent); border-radius:50%; animation:tzspin .8s linear infinite }
@keyframes tzspin { to { transform:rotate(360deg) } }
.tzp button, .tzp select { font:inherit; color:var(--ink); border:1px solid #c2cad1; background:#fff; border-radius:7px; padding:5px 11px; cursor:pointer }
.tzp button:hover:not(:disabled) { border-color:var(--accent); background:#eef5fb }
.tzp button:disabled { opacity:.45; cursor:default }
.tzp button:focus-visible, .tzp select:focus-visible { outline:2px solid var(--accent); outline-offset:1px }
.tzp button.main { background:var(--accent); border-color:var(--accent); color:#fff }
.tzp button.main:hover:not(:disabled) { background:#095a98 }
.tzp .row { display:flex; flex-wrap:wrap; gap:7px; align-items:center }
.tzp .row + .row { margin-top:9px }
.tzp label { color:var(--soft); display:flex; align-items:center; gap:6px }
.tzp .moves { max-height:180px; overflow:auto; display:grid; grid-template-columns:2.4em 1fr 1fr; gap:1px 4px; margin-top:7px }
.tzp .moves.one { grid-template-columns:3em 1fr }
.tzp .moves span { color:var(--soft); text-align:right; padding:2px 6px 2px 0 }
.tzp .moves button { border-color:transparent; background:none; text-align:left; padding:2px 7px }
.tzp .moves button.at { background:#dcebf8; font-weight:600 }
.tzp table { border-collapse:collapse; width:100%; font-size:14px; margin-top:6px }
.tzp td, .tzp th { padding:2px 6px; text-align:right; font-variant-numeric:tabular-nums } .tzp td:first-child, .tzp th:first-child { text-align:left }
.tzp th { color:var(--soft); font-weight:normal; border-bottom:1px solid var(--line) }
.tzp tr.best td { font-weight:600; color:var(--accent) }
.tzp .line { color:var(--soft); margin-top:7px; word-spacing:3px } .tzp .line b { color:var(--ink); font-weight:600 }
.tzp .error { color:var(--warn); min-height:0; overflow-wrap:anywhere } .tzp .error:empty { display:none }
.tzp .extra { display:flex; flex-wrap:wrap; gap:7px; margin-top:10px; justify-content:center } .tzp .extra:empty { display:none }
.tzp .choice { position:absolute; inset:0; display:flex; gap:10px; align-items:center; justify-content:center; background:#ffffffb8; z-index:3; flex-wrap:wrap }
.tzp .choice button { font-size:19px; padding:10px 18px }
`;

function make(parent, tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

function button(parent, text, onclick, name, className = "") {
  const node = make(parent, "button", className, text);
  node.type = "button";
  node.dataset.do = name;
  node.onclick = onclick;
  return node;
}

const SVG = "http://www.w3.org/2000/svg";
const signed = (x) => (Math.abs(x) < 0.005 ? "0.00" : (x > 0 ? "+" : "−") + Math.abs(x).toFixed(Math.abs(x) < 100 ? 2 : 0));

export function mount(root, ask) {
  root.classList.add("tzp");
  root.tabIndex = -1;
  make(root, "style").textContent = STYLE;

  const left = make(root, "div", "left");
  const bar = make(left, "div", "bar");
  const fill = make(bar, "div", "fill");
  make(bar, "div", "mid");
  const wrap = make(left, "div", "wrap");
  const area = make(wrap, "div", "area");
  const pic = make(area, "div", "pic");
  const hits = document.createElementNS(SVG, "svg");
  hits.setAttribute("class", "hits");
  area.append(hits);
  const extra = make(wrap, "div", "extra");

  const side = make(root, "div", "side");
  const top = make(side, "div", "card");
  const status = make(top, "div", "status");
  const sides = make(top, "div");
  const error = make(top, "div", "error");
  error.setAttribute("role", "alert");
  status.setAttribute("aria-live", "polite");

  const tools = make(side, "div", "card");
  const first = make(tools, "div", "row");
  const fresh = button(first, "New game", () => send({ do: "new" }), "new", "main");
  const undo = button(first, "Undo", () => send({ do: "undo" }), "undo");
  const resign = button(first, "Resign", () => send({ do: "resign" }), "resign");
  const second = make(tools, "div", "row");
  const person = make(make(second, "label", "", "You play"), "select");
  person.dataset.do = "person";
  const simulations = make(make(second, "label", "", "Simulations"), "select");
  simulations.dataset.do = "simulations";
  const third = make(tools, "div", "row");
  const box = make(third, "label");
  const overlay = make(box, "input");
  overlay.type = "checkbox";
  overlay.dataset.do = "overlay";
  box.append("Show the analysis of the agent");

  const thoughts = make(side, "div", "card");
  const list = make(side, "div", "card");
  const steps = make(list, "div", "row");
  const go = (to) => () => send({ do: "view", at: to() });
  const begin = button(steps, "|◀", go(() => 0), "begin");
  const back = button(steps, "◀", go(() => view.at - 1), "back");
  const on = button(steps, "▶", go(() => view.at + 1), "forward");
  const end = button(steps, "▶|", go(() => view.history.length), "end");
  for (const [node, text] of [[begin, "first position"], [back, "one move back"], [on, "one move forward"], [end, "last position"]]) {
    node.title = text;
    node.setAttribute("aria-label", text);
  }
  const moves = make(list, "div", "moves");

  let view = null;
  let busy = false;
  let chosen = [];
  let late = 0;
  let undos = 0;
  const later = new Map(); // what was clicked during an answer, the newest message of each kind
  const numbers = new Set([8, 32, 64, 200, 400, 800]);

  async function send(message) {
    if (busy) {
      if (["move", "reply"].includes(message.do)) return;
      const kind = message.do === "undo" ? `undo ${++undos}` : message.do; // two clicks on Undo take back two turns
      const merged = { ...later.get(kind), ...message };
      later.delete(kind);
      later.set(kind, merged);
      return;
    }
    busy = true;
    let failed = false;
    clearTimeout(late);
    chosen = [];
    const slow = setTimeout(() => waitFor(message), 150);
    try {
      const stays = message.do === "view" || message.do === "resign";
      const asked = { overlay: overlay.checked, ...(stays && view ? { at: view.at } : {}), ...message };
      show(await ask(asked));
      failed = Boolean(view.error);
    } catch (reason) {
      failed = true;
      error.textContent = "The game cannot be reached: " + (reason.message || reason);
    } finally {
      clearTimeout(slow);
      busy = false;
      root.dataset.busy = "";
    }
    const [next] = later;
    if (next) {
      later.delete(next[0]);
      send(next[1]);
    } else if (view && view.waiting && !(failed && message.do === "reply")) {
      late = setTimeout(() => send({ do: "reply" }), view.person === "nobody" ? 350 : 30);
    }
  }

  function waitFor(message) {
    root.dataset.busy = "yes";
    if (message.do !== "view" || overlay.checked) {
      status.replaceChildren();
      make(status, "span", "spin");
      status.append("Thinking…");
    }
  }

  // A click on a square keeps the moves whose squares begin with those clicked so far.
  function fits(move, path) {
    return path.every((square, n) => move.squares[n] === square);
  }

  function click(square) {
    if (busy || !view) return;
    let path = [...chosen, square];
    let open = view.moves.filter((move) => move.squares.length >= path.length && fits(move, path));
    if (!open.length) {
      path = chosen.length === 1 && chosen[0] === square ? [] : [square];
      open = view.moves.filter((move) => move.squares.length >= path.length && fits(move, path));
      if (!open.length) path = [];
    }
    chosen = path;
    const whole = open.filter((move) => path.length && move.squares.length === path.length);
    if (whole.length === 1) return send({ do: "move", move: whole[0].name });
    if (whole.length > 1) return choose(whole);
    drawHits();
  }

  function choose(options) {
    const choice = make(area, "div", "choice");
    const close = () => { choice.remove(); chosen = []; drawHits(); };
    choice.onclick = close;
    for (const move of options) button(choice, move.name, () => { choice.remove(); send({ do: "move", move: move.name }); }, "choose");
  }

  function drawHits() {
    hits.setAttribute("viewBox", `0 0 ${view.width} ${view.height}`);
    hits.replaceChildren();
    const starts = new Set(view.moves.map((move) => move.squares[0]));
    const nexts = new Set(view.moves.filter((m) => m.squares.length > chosen.length && fits(m, chosen)).map((m) => m.squares[chosen.length]));
    for (const [name, [x, y, width, height]] of Object.entries(view.squares)) {
      const rect = document.createElementNS(SVG, "rect");
      for (const [key, value] of Object.entries({ x, y, width, height, rx: 5 })) rect.setAttribute(key, value);
      const can = starts.has(name) || (chosen.length && nexts.has(name));
      const mark = chosen.includes(name) ? " on" : chosen.length && nexts.has(name) ? " to" : "";
      rect.setAttribute("class", "hit" + (can ? " can" : "") + mark);
      rect.dataset.square = name;
      rect.onclick = () => click(name);
      hits.append(rect);
    }
  }

  function show(next) {
    view = next;
    area.querySelector(".choice")?.remove();
    pic.innerHTML = view.svg;
    drawHits();
    extra.replaceChildren();
    for (const move of view.moves) if (!move.squares.length) button(extra, move.name, () => send({ do: "move", move: move.name }), "move").dataset.move = move.name;
    status.replaceChildren();
    if (view.waiting) make(status, "span", "spin");
    status.append(view.status);
    error.textContent = view.error || "";
    showSides();
    showValue();
    showThoughts();
    showMoves();
    showTools();
    root.dataset.at = view.at;
    root.dataset.moves = view.history.length;
    root.dataset.over = view.over ? "yes" : "";
    root.dataset.waiting = view.waiting ? "yes" : "";
  }

  function showSides() {
    sides.replaceChildren();
    for (const one of view.sides) {
      const line = make(sides, "div", "who" + (one.to_move && !view.over ? " now" : ""));
      make(line, "span", "dot").style.background = one.color;
      line.append(`${one.name}: ${one.who}`);
    }
  }

  function showValue() {
    const two = view.num_players === 2;
    bar.style.display = two ? "" : "none";
    if (!two) return;
    const value = Math.max(-1, Math.min(1, view.value ?? 0));
    bar.style.background = view.sides[1].color;
    fill.style.background = view.sides[0].color;
    fill.style.height = `${50 + 50 * value}%`;
    bar.style.opacity = view.value === null ? 0.35 : 1;
    bar.title = view.value === null ? "no value yet" : `${signed(view.value)} for ${view.sides[0].name}, by the estimate of the agent`;
  }

  function showThoughts() {
    thoughts.replaceChildren();
    const found = view.analysis;
    if (!found) {
      const text = view.value === null || view.over ? "" : `Value for ${view.sides[0].name}: ${signed(view.value)}`;
      thoughts.style.display = text ? "" : "none";
      thoughts.append(text);
      return;
    }
    thoughts.style.display = "";
    make(thoughts, "div", "", `The agent would play ${found.move}. Value for the side to move: ${signed(found.value)}`);
    const table = make(thoughts, "table");
    const head = make(table, "tr");
    for (const name of ["move", "visits", "policy", "value"]) make(head, "th", "", name);
    for (const move of found.moves) {
      const row = make(table, "tr", move.name === found.move ? "best" : "");
      for (const text of [move.name, move.visits, (100 * move.policy).toFixed(0) + "%", move.q === null ? "–" : signed(move.q)]) make(row, "td", "", String(text));
    }
    const line = make(thoughts, "div", "line");
    make(line, "b", "", "Expects: ");
    line.append(found.line.join(" "));
  }

  function showMoves() {
    const two = view.num_players === 2;
    moves.className = two ? "moves" : "moves one";
    moves.replaceChildren();
    let row = 0;
    let place = 2; // columns taken in the newest row, where each side has one; 2 begins a new row
    view.history.forEach((name, n) => {
      const seat = two ? view.seats[n] : 0;
      if (!two || seat < place) make(moves, "span", "", `${++row}.`).style.gridColumn = 1;
      place = seat + 1;
      button(moves, name, () => send({ do: "view", at: n + 1 }), "step", view.at === n + 1 ? "at" : "").style.gridColumn = seat + 2;
    });
    const at = moves.querySelector(".at");
    if (at) moves.scrollTop = Math.max(0, at.offsetTop - moves.offsetTop - 90);
    begin.disabled = back.disabled = view.at === 0;
    on.disabled = end.disabled = view.at === view.history.length;
  }

  function showTools() {
    undo.disabled = !view.history.length && !view.over;
    resign.disabled = view.over || view.num_players !== 2;
    const choices = view.num_players === 2
      ? { first: view.sides[0].name, second: view.sides[1].name, both: "both sides", nobody: "nobody" }
      : { first: "yourself", nobody: "nobody" };
    const options = Object.entries(choices).map(([value, text]) => new Option(text, value, false, value === view.person));
    person.replaceChildren(...options);
    numbers.add(view.simulations);
    const sorted = [...numbers].sort((a, b) => a - b);
    simulations.replaceChildren(...sorted.map((n) => new Option(n, n, false, n === view.simulations)));
  }

  overlay.onchange = () => send({ do: "view" });
  person.onchange = () => send({ do: "settings", person: person.value });
  simulations.onchange = () => send({ do: "settings", simulations: Number(simulations.value) });
  root.addEventListener("keydown", (event) => {
    const name = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }[event.key];
    if (!name || !view || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
    event.preventDefault();
    if (view.moves.some((move) => move.name === name)) send({ do: "move", move: name });
    else if (name === "left" && view.at > 0) send({ do: "view", at: view.at - 1 });
    else if (name === "right" && view.at < view.history.length) send({ do: "view", at: view.at + 1 });
  });

  send({ do: "open" });
  return () => clearTimeout(late);
}

// The page: each tab has a game of its own.
export function page(root) {
  let session = null;
  return mount(root, async (message) => {
    const body = JSON.stringify({ session, message: message.do === "open" ? { ...message, do: "view" } : message });
    const answer = await fetch("/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const data = await answer.json();
    if (!answer.ok) throw new Error(data.error);
    session = data.session;
    return data.view;
  });
}

// The notebook, through anywidget: messages over the kernel's own channel.
export default {
  render({ model, el }) {
    const waiting = new Map();
    const name = Math.random().toString(36).slice(2);
    let number = 0;
    const hear = (message) => {
      const { resolve, reject } = waiting.get(message.id) ?? {};
      waiting.delete(message.id);
      if (message.error) reject?.(new Error(message.error));
      else resolve?.(message.view);
    };
    model.on("msg:custom", hear);
    const root = document.createElement("div");
    el.append(root);
    const stop = mount(root, (message) => new Promise((resolve, reject) => {
      const id = `${name}-${++number}`;
      waiting.set(id, { resolve, reject });
      model.send({ id, message: message.do === "open" ? { ...message, do: "view" } : message });
    }));
    return () => { stop(); model.off("msg:custom", hear); };
  },
};
