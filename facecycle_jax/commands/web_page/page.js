// Runs a FaceCycle model in the browser with onnxruntime-web.
//
// Images are read, framed and drawn here. The only requests are for the files of this
// page and for the runtime.

const place = document.querySelector('meta[name="onnxruntime-web"]').content;
const status = document.getElementById("status");
const strength = document.getElementById("strength");

// Codes this close to -1 and 1 count as saturated, so that atanh stays finite.
const LARGEST_CODE = 1 - 1e-6;
// Largest side of an image that is kept, in pixels.
const LARGEST_SIDE = 1600;
// Part of the shown square by which an arrow key moves a marker.
const STEP = 0.01;

let settings;
let runtime;
let sessions;
const faces = [];

function say(text, state = "") {
  status.className = state;
  status.querySelector("span").textContent = text;
}

function inMegabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

// Fetches a file whose content is known by its digest.
async function fetchFile(address, integrity) {
  const answer = await fetch(address, { integrity, credentials: "omit" });
  if (!answer.ok) {
    throw new Error(`${address} answered ${answer.status}`);
  }
  return answer.arrayBuffer();
}

async function loadRuntime() {
  const base = new URL(place, document.baseURI);
  const { script, binary } = settings.runtime;
  const [text, wasm] = await Promise.all(
    [script, binary].map((file) => fetchFile(new URL(file.name, base), file.integrity)),
  );

  // A module of the bytes that were checked, not of a second download.
  const blob = new Blob([text], { type: "text/javascript" });
  const address = URL.createObjectURL(blob);
  const ort = await import(address);
  URL.revokeObjectURL(address);

  // One thread: more need headers that a plain file server does not send.
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1;
  return ort;
}

async function loadProgram(file) {
  const data = await fetchFile(new URL(file.name, document.baseURI), file.integrity);
  return runtime.InferenceSession.create(new Uint8Array(data), {
    executionProviders: ["wasm"],
    // Errors alone: it warns of constants that nothing reads.
    logSeverityLevel: 3,
  });
}

// The square of an image that brings the eyes to the framing, as [left, top, side].
function squareOfEyes(eyes) {
  const [[leftX, leftY], [rightX, rightY]] = [
    settings.framing.left_eye,
    settings.framing.right_eye,
  ];
  const distance = Math.hypot(rightX - leftX, rightY - leftY);
  const [first, second] = eyes;
  const between = Math.hypot(second[0] - first[0], second[1] - first[1]);
  const side = Math.max(between / distance, 1);

  const left = (first[0] + second[0]) / 2 - ((leftX + rightX) / 2) * side;
  const top = (first[1] + second[1]) / 2 - ((leftY + rightY) / 2) * side;
  return [left, top, side];
}

// The eyes of a square that is framed already.
function eyesOfSquare([left, top, side]) {
  return [settings.framing.left_eye, settings.framing.right_eye].map(([x, y]) => [
    left + x * side,
    top + y * side,
  ]);
}

// Cuts a square out of an image and resizes it; pixels RGBA.
function cut(image, [left, top, side], size) {
  // What lies beyond the image, and under its transparent parts, is white.
  let now = Math.min(Math.ceil(side), LARGEST_SIDE);
  const scale = now / side;
  let canvas = new OffscreenCanvas(now, now);
  let context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, now, now);
  context.imageSmoothingQuality = "high";
  context.drawImage(
    image,
    -left * scale,
    -top * scale,
    image.width * scale,
    image.height * scale,
  );

  // Halving until less than half is left averages all pixels.
  while (now !== size) {
    const next = Math.max(size, now / 2);
    const smaller = new OffscreenCanvas(Math.ceil(next), Math.ceil(next));
    context = smaller.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(canvas, 0, 0, now, now, 0, 0, next, next);
    canvas = smaller;
    now = next;
  }
  return context.getImageData(0, 0, size, size).data;
}

// uint8 [1, S, S, 3] from RGBA.
function toTensor(pixels, size) {
  const data = new Uint8Array(size * size * 3);
  for (let i = 0; i < size * size; i += 1) {
    data.set(pixels.subarray(4 * i, 4 * i + 3), 3 * i);
  }
  return new runtime.Tensor("uint8", data, [1, size, size, 3]);
}

function drawTensor(canvas, tensor) {
  const size = tensor.dims[1];
  canvas.width = size;
  canvas.height = size;

  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i += 1) {
    image.data.set(tensor.data.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The code of a face that takes over a part of the other's motion. Codes are blended as
// they were before their tanh.
function combine(own, other, part) {
  const before = (x) => Math.atanh(Math.min(Math.max(x, -LARGEST_CODE), LARGEST_CODE));
  return own.map((value, i) => {
    const start = before(value);
    const blended = Math.tanh(start + part * (before(other[i]) - start));
    return Math.min(Math.max(blended, -LARGEST_CODE), LARGEST_CODE);
  });
}

// The runtime runs one program at a time. Whatever changes meanwhile is computed next,
// once, with the newest values.
let running = false;
let again = false;

async function update() {
  again = true;
  if (running || !sessions) {
    return;
  }

  running = true;
  try {
    while (again) {
      again = false;
      await compute();
    }
  } catch (error) {
    say(`The model failed: ${error.message}`, "failed");
  } finally {
    running = false;
  }
}

async function compute() {
  if (faces.some((face) => !face.image)) {
    return;
  }

  const start = performance.now();
  for (const face of faces) {
    if (face.changed) {
      face.changed = false;
      const pixels = cut(face.image, squareOfEyes(face.eyes), settings.size);
      face.prepared = await sessions.prepare.run({
        images: toTensor(pixels, settings.size),
      });
      drawTensor(face.part(".neutral"), face.prepared.neutral);
    }
  }

  const part = Number(strength.value);
  for (const [number, face] of faces.entries()) {
    const own = face.prepared.motion_code;
    const other = faces[1 - number].prepared.motion_code;
    const code = combine(own.data, other.data, part);
    const found = await sessions.express.run({
      fine: face.prepared.fine,
      coarse: face.prepared.coarse,
      codes: new runtime.Tensor("float32", code, own.dims),
    });
    drawTensor(face.part(".moved"), found.expressed);
  }

  const taken = Math.round(performance.now() - start);
  say(`Both faces were drawn in ${taken} ms.`, "ready");
  document.body.dataset.drawn = Number(document.body.dataset.drawn || 0) + 1;
}

// One of the two faces: its image, the markers of its eyes, and what is drawn of it.
class Face {
  constructor(title) {
    const template = document.getElementById("face");
    this.root = template.content.firstElementChild.cloneNode(true);
    this.root.setAttribute("aria-label", title);
    this.part("h2").textContent = title;
    this.markers = [...this.root.querySelectorAll(".eye")];
    this.zoom = this.part(".zoom input");
    document.getElementById("faces").append(this.root);

    for (const [number, marker] of this.markers.entries()) {
      const side = number === 0 ? "left" : "right";
      marker.setAttribute("aria-label", `Eye on the ${side} of the image`);
      marker.addEventListener("pointerdown", (event) => {
        marker.setPointerCapture(event.pointerId);
        event.preventDefault();
        marker.focus();
      });
      marker.addEventListener("pointermove", (event) => {
        if (marker.hasPointerCapture(event.pointerId)) {
          this.move(number, this.toImage(event));
        }
      });
      marker.addEventListener("keydown", (event) => this.step(number, event));
    }

    this.zoom.addEventListener("input", () => this.look());
    this.part("input[type=file]").addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      this.read(file);
    });

    // Images may be dropped onto the card, too.
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.read(event.dataTransfer.files[0]);
    });
  }

  part(selector) {
    return this.root.querySelector(selector);
  }

  async read(file) {
    if (!file) {
      return;
    }
    try {
      this.show(await createImageBitmap(file));
    } catch {
      say(`${file.name} cannot be read as an image.`, "failed");
    }
  }

  // Shows an image with the markers where a framed face has its eyes.
  show(bitmap) {
    const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const width = Math.max(1, Math.round(bitmap.width * scale));
    const height = Math.max(1, Math.round(bitmap.height * scale));
    this.image = new OffscreenCanvas(width, height);
    this.image.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    bitmap.close();

    const side = Math.min(width, height);
    this.eyes = eyesOfSquare([(width - side) / 2, (height - side) / 2, side]);
    this.zoom.value = 1;
    this.look();
    this.changed = true;
    update();
  }

  // Chooses the shown square of the image, [left, top, side], by the zoom.
  look() {
    if (!this.image) {
      return;
    }
    const { width, height } = this.image;
    const side = Math.max(width, height) / Number(this.zoom.value);
    const middle = [0, 1].map((axis) => (this.eyes[0][axis] + this.eyes[1][axis]) / 2);

    // Around the eyes, but not beyond the image without need.
    const [left, top] = [width, height].map((length, axis) => {
      const wanted = middle[axis] - side / 2;
      const spare = length - side;
      return spare < 0 ? spare / 2 : Math.min(Math.max(wanted, 0), spare);
    });
    this.view = [left, top, side];
    this.draw();
  }

  // Draws the image and the markers, in coordinates 0 to 1 of the shown square.
  draw() {
    const [left, top, side] = this.view;
    const canvas = this.part(".stage canvas");
    const context = canvas.getContext("2d");
    const scale = canvas.width / side;
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(
      this.image,
      -left * scale,
      -top * scale,
      this.image.width * scale,
      this.image.height * scale,
    );

    for (const [number, [x, y]] of this.eyes.entries()) {
      this.markers[number].setAttribute("cx", (x - left) / side);
      this.markers[number].setAttribute("cy", (y - top) / side);
    }

    const square = squareOfEyes(this.eyes);
    const x = (square[0] - left) / side;
    const y = (square[1] - top) / side;
    const length = square[2] / side;
    const frame = this.part(".frame");
    frame.setAttribute("x", x);
    frame.setAttribute("y", y);
    frame.setAttribute("width", length);
    frame.setAttribute("height", length);
    this.part(".shade").setAttribute(
      "d",
      `M0 0H1V1H0ZM${x} ${y}h${length}v${length}h${-length}Z`,
    );
  }

  // The place of a pointer in pixels of the image.
  toImage(event) {
    const box = this.part(".stage").getBoundingClientRect();
    const [left, top, side] = this.view;
    return [
      left + ((event.clientX - box.left) / box.width) * side,
      top + ((event.clientY - box.top) / box.height) * side,
    ];
  }

  // Moves a marker within the image; the left one stays left of the other.
  move(number, [x, y]) {
    const { width, height } = this.image;
    const moved = [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
    const other = this.eyes[1 - number];
    const gap = number === 0 ? other[0] - moved[0] : moved[0] - other[0];
    if (gap < 2) {
      return;
    }

    this.eyes[number] = moved;
    this.draw();
    this.changed = true;
    update();
  }

  step(number, event) {
    const steps = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1],
    };
    const direction = steps[event.key];
    if (!direction || !this.image) {
      return;
    }
    event.preventDefault();
    const [x, y] = this.eyes[number];
    const length = STEP * this.view[2];
    this.move(number, [x + direction[0] * length, y + direction[1] * length]);
  }
}

async function useExample(names) {
  for (const [number, name] of names.entries()) {
    const data = await fetchFile(new URL(name, document.baseURI));
    faces[number].show(await createImageBitmap(new Blob([data])));
  }
}

function addExamples() {
  const group = document.getElementById("examples");
  group.append("Examples");
  for (const names of settings.examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Use these two faces";
    for (const name of names) {
      const image = document.createElement("img");
      image.src = name;
      image.alt = "Example face";
      button.append(image);
    }
    button.addEventListener("click", () => useExample(names));
    group.append(button);
  }
}

async function start() {
  if (location.protocol === "file:") {
    throw new Error(
      "browsers refuse to read files next to a page that was opened as a file. Serve " +
        "this folder, for instance with: python -m http.server --bind 127.0.0.1",
    );
  }

  const answer = await fetch(new URL("settings.json", document.baseURI));
  settings = await answer.json();
  faces.push(new Face("First face"), new Face("Second face"));
  addExamples();
  await useExample(settings.examples[0]);

  const { prepare, express } = settings.programs;
  document.getElementById("model").textContent =
    `Model: ${settings.source}. Licence: ${settings.licence}.`;

  const binary = settings.runtime.binary.bytes;
  say(`Loading onnxruntime-web, ${inMegabytes(binary)}`);
  runtime = await loadRuntime();

  say(`Loading the model, ${inMegabytes(prepare.bytes + express.bytes)}`);
  const loaded = { prepare: await loadProgram(prepare) };
  loaded.express = await loadProgram(express);
  sessions = loaded;

  say("Drawing");
  await update();
}

strength.addEventListener("input", () => {
  const shown = Number(strength.value).toFixed(2);
  document.querySelector("#controls output").textContent = shown;
  update();
});

start().catch((error) => say(`The page cannot start: ${error.message}`, "failed"));
