// The slice viewer: reads the volumes inside the page, draws one slice, flickers between images.
// Volumes are bytes with x slowest (three bytes a voxel for colours), deflated, base64.
"use strict";
(() => {
  const byId = (name) => document.getElementById(`viewer-${name}`);
  const holder = byId("data");
  if (!holder) return; // the section could not be made, and says so
  const data = JSON.parse(holder.textContent);
  const root = byId("root"), stage = byId("stage"), canvas = byId("canvas"), status = byId("status");
  const platformBox = byId("platform"), quantityBox = byId("quantity"), axisBox = byId("axis");
  const slider = byId("slice"), speed = byId("speed"), flickerButton = byId("flicker");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const AXES = { x: 0, y: 1, z: 2 };
  // Of each plane: the axes that run to the right and up, and the letters left, right, top, bottom (axes are RAS+).
  const PLANES = { z: [0, 1, "LRAP"], y: [0, 2, "LRSI"], x: [1, 2, "PASI"] };
  const state = { platform: 0, quantity: "signal", axis: "z", slice: 0, image: "prediction" };
  const errorColours = bytesOf(data.errors);
  const unpacked = new Map(); // platform/quantity/image to bytes
  let ticked = new Set(), timer = null, drawing = 0;

  function bytesOf(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  const platform = () => data.platforms[state.platform];
  const quantity = () => platform().quantities[state.quantity];
  const depth = () => platform().shape[AXES[state.axis]];
  const shown = () => platform().images.filter((image) => image.name in quantity().volumes);
  const titleOf = (name) => platform().images.find((image) => image.name === name).title;

  async function volumeOf(name) {
    const key = `${state.platform}/${state.quantity}/${name}`;
    if (!unpacked.has(key)) {
      const packed = new Blob([bytesOf(quantity().volumes[name])]);
      const stream = packed.stream().pipeThrough(new DecompressionStream("deflate"));
      unpacked.set(key, new Response(stream).arrayBuffer().then((buffer) => new Uint8Array(buffer)));
    }
    return unpacked.get(key);
  }

  // Place of the voxel at column i and row j (from the bottom) of the slice.
  function placeOf(i, j) {
    const place = [0, 0, 0], [right, up] = PLANES[state.axis];
    place[right] = i;
    place[up] = j;
    place[AXES[state.axis]] = state.slice;
    return place;
  }

  function offsetOf([x, y, z]) {
    const [, height, layers] = platform().shape;
    return (x * height + y) * layers + z;
  }

  function paint(volume) {
    const [right, up, letters] = PLANES[state.axis];
    const { shape, size, step } = platform();
    const [columns, rows] = [shape[right], shape[up]];
    const picture = new ImageData(columns, rows);
    for (let j = 0; j < rows; j++) {
      for (let i = 0; i < columns; i++) {
        const from = offsetOf(placeOf(i, j)), to = 4 * ((rows - 1 - j) * columns + i);
        for (let c = 0; c < 3; c++) picture.data[to + c] = colourOf(volume, from, c);
        picture.data[to + 3] = 255;
      }
    }
    canvas.width = columns;
    canvas.height = rows;
    canvas.getContext("2d").putImageData(picture, 0, 0);
    const spacing = (axis) => size[axis] * (axis === 2 ? step : 1);
    const [width, height] = [columns * spacing(right), rows * spacing(up)];
    const scale = Math.min(560 / width, 480 / height);
    canvas.style.width = `${Math.round(width * scale)}px`;
    canvas.style.aspectRatio = `${width} / ${height}`;
    ["left", "right", "top", "bottom"].forEach((side, k) => {
      stage.querySelector(`.letter.${side}`).textContent = letters[k];
    });
  }

  function colourOf(volume, from, c) {
    if (state.quantity === "colour") return volume[3 * from + c];
    const level = volume[from];
    if (state.quantity === "signal" || level === 0) return level;
    return errorColours[3 * level + c];
  }

  // Everything on the page that follows from the state. A later call overtakes an earlier one that still unpacks.
  async function show() {
    const turn = ++drawing;
    const names = shown().map((image) => image.name);
    if (!names.includes(state.image)) state.image = names.includes("prediction") ? "prediction" : names[0];
    state.slice = Math.max(0, Math.min(depth() - 1, state.slice));
    try {
      const volume = await volumeOf(state.image);
      if (turn !== drawing) return;
      paint(volume);
    } catch (error) {
      trouble(`The volumes cannot be unpacked (${error}): this needs a browser of 2023 or later.`);
      return;
    }
    describe();
    names.forEach((name) => volumeOf(name).catch(() => {})); // ready before the flicker needs them
  }

  function describe() {
    const { name, subject, first, step, size } = platform();
    platformBox.value = String(state.platform);
    quantityBox.value = state.quantity;
    axisBox.value = state.axis;
    slider.max = String(depth() - 1);
    slider.value = String(state.slice);
    const voxel = state.axis === "z" ? first + step * state.slice : state.slice;
    const mm = (voxel * size[AXES[state.axis]]).toFixed(1);
    const words = `${titleOf(state.image)}: ${data.quantities[state.quantity]} of ${name}, subject ${subject}, `
      + `${state.axis} = ${voxel} (${mm} mm from the box's edge)`;
    slider.setAttribute("aria-valuetext", `${state.axis} = ${voxel}`);
    canvas.setAttribute("aria-label", words);
    if (timer === null) status.textContent = words; // not read aloud at every flicker
    else status.textContent = `Flickering: ${[...ticked].map(titleOf).join(" / ")}`;
    for (const button of byId("images").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.image === state.image));
    }
    root.dataset.state = [name, state.quantity, state.axis, state.slice, state.image].join(",");
    root.dataset.flicker = timer === null ? "off" : "on";
    drawScale();
  }

  function drawScale() {
    const grey = state.quantity !== "colour";
    byId("scale").hidden = !grey;
    byId("low").textContent = grey ? "0" : "red left-right, green front-back, blue feet-head; brightness: FA,";
    byId("high").textContent = grey ? `${quantity().top.toPrecision(3)} ${quantity().unit}` : `full at ${data.bright}`;
    if (!grey) return;
    const picture = new ImageData(256, 1);
    for (let level = 0; level < 256; level++) {
      for (let c = 0; c < 3; c++) {
        picture.data[4 * level + c] = state.quantity === "error" ? errorColours[3 * level + c] : level;
      }
      picture.data[4 * level + 3] = 255;
    }
    byId("scale").getContext("2d").putImageData(picture, 0, 0);
  }

  function trouble(words) {
    stop();
    byId("trouble").textContent = words;
    byId("trouble").hidden = false;
  }

  // The buttons of the images, each with a tick: whether it takes part in the flicker.
  function listImages() {
    const images = shown(), last = images[images.length - 1].name;
    ticked = new Set(images.map((image) => image.name).filter((name) => name === "prediction" || name === last));
    if (ticked.size < 2) ticked = new Set(images.map((image) => image.name));
    byId("images").replaceChildren(...images.map((image, number) => {
      const choice = document.createElement("span"), button = document.createElement("button");
      const label = document.createElement("label"), tick = document.createElement("input");
      choice.className = "choice";
      button.type = "button";
      button.dataset.image = image.name;
      button.textContent = `${number + 1} ${image.title}`;
      button.addEventListener("click", () => { stop(); state.image = image.name; show(); });
      tick.type = "checkbox";
      tick.checked = ticked.has(image.name);
      tick.setAttribute("aria-label", `flicker through ${image.title}`);
      tick.addEventListener("change", () => { if (tick.checked) ticked.add(image.name); else ticked.delete(image.name); });
      label.append(tick);
      choice.append(button, label);
      return choice;
    }));
  }

  function next() {
    const names = shown().map((image) => image.name).filter((name) => ticked.has(name));
    if (!names.length) { stop(); return; }
    state.image = names[(names.indexOf(state.image) + 1) % names.length];
    show();
  }

  function stop() {
    if (timer === null) return;
    window.clearInterval(timer);
    timer = null;
    flickerButton.setAttribute("aria-pressed", "false");
    show();
  }

  function start() {
    if (calm.matches) { next(); return; } // who asked for no motion steps by hand
    timer = window.setInterval(next, 1000 / Number(speed.value));
    flickerButton.setAttribute("aria-pressed", "true");
    next();
  }

  function toggle() {
    if (timer === null) start(); else stop();
  }

  function move(by) {
    state.slice += by;
    show();
  }

  function choosePlatform(number) {
    const name = state.quantity;
    state.platform = number;
    quantityBox.replaceChildren(...Object.keys(platform().quantities).map((key) => new Option(data.quantities[key], key)));
    if (!(name in platform().quantities)) state.quantity = "signal";
    for (const option of axisBox.options) option.disabled = platform().step > 1 && option.value !== "z";
    if (platform().step > 1) state.axis = "z";
    listImages();
    chooseAxis(state.axis);
  }

  function chooseQuantity(name) {
    state.quantity = name;
    listImages();
    show();
  }

  function chooseAxis(axis) {
    state.axis = axis;
    state.slice = axis === "z" ? platform().middle : Math.floor(depth() / 2);
    show();
  }

  const KEYS = {
    ArrowUp: () => move(1), ArrowRight: () => move(1), ArrowDown: () => move(-1), ArrowLeft: () => move(-1),
    PageUp: () => move(5), PageDown: () => move(-5), Home: () => move(-depth()), End: () => move(depth()),
    " ": toggle, Escape: stop,
  };

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const image = shown()[Number(event.key) - 1];
    if (event.key in KEYS) KEYS[event.key]();
    else if (image) { stop(); state.image = image.name; show(); }
    else return;
    event.preventDefault(); // the page does not scroll under the slice
  });
  platformBox.addEventListener("change", () => { stop(); choosePlatform(Number(platformBox.value)); });
  quantityBox.addEventListener("change", () => { stop(); chooseQuantity(quantityBox.value); });
  axisBox.addEventListener("change", () => chooseAxis(axisBox.value));
  slider.addEventListener("input", () => { state.slice = Number(slider.value); show(); });
  flickerButton.addEventListener("click", () => { toggle(); });
  speed.addEventListener("input", () => {
    byId("rate").textContent = speed.value;
    if (timer !== null) { stop(); start(); }
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); });
  calm.addEventListener("change", () => { stop(); nameButton(); });

  canvas.addEventListener("pointermove", async (event) => {
    if (state.quantity === "colour") { byId("value").textContent = "Colours have no single value."; return; }
    const box = canvas.getBoundingClientRect();
    const i = Math.floor(canvas.width * (event.clientX - box.left) / box.width);
    const j = Math.floor(canvas.height * (box.bottom - event.clientY) / box.height);
    if (i < 0 || j < 0 || i >= canvas.width || j >= canvas.height) return;
    const place = placeOf(i, j), level = (await volumeOf(state.image))[offsetOf(place)];
    const value = level ? ((level - 1) / data.levels * quantity().top).toPrecision(3) : "outside the mask";
    byId("value").textContent = `voxel ${place.join(", ")}: ${value}`;
  });

  function nameButton() {
    flickerButton.textContent = calm.matches ? "Next image (space)" : "Flicker (space)";
  }

  // #viewer=PLATFORM,QUANTITY,AXIS,SLICE,IMAGE opens the page at that view; what it leaves out or misspells is kept.
  function follow() {
    if (!location.hash.startsWith("#viewer=")) return;
    const [name, what, axis, slice, image] = decodeURIComponent(location.hash.slice(8)).split(",");
    const number = data.platforms.findIndex((each) => each.name === name);
    stop();
    if (number >= 0) choosePlatform(number);
    if (what in platform().quantities) chooseQuantity(what);
    if (axis in AXES && (axis === "z" || platform().step === 1)) chooseAxis(axis);
    if (/^\d+$/.test(slice || "")) state.slice = Number(slice);
    if (shown().some((each) => each.name === image)) state.image = image;
    show();
    root.scrollIntoView();
  }

  root.hidden = false;
  nameButton();
  platformBox.replaceChildren(...data.platforms.map((each, number) => new Option(each.name, String(number))));
  choosePlatform(0);
  follow();
  window.addEventListener("hashchange", follow);
})();
