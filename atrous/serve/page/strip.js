// The strip of pictures under the stage.

const STATES = { waiting: "waiting", working: "working …", failed: "failed", done: "" };
const SIDE = 128; // pixels of a thumbnail's longer side

export class Strip {
  /** @param {(item: Item) => void} onSelect told the picture that is to be shown. */
  constructor(list, onSelect) {
    this.list = list;
    this.onSelect = onSelect;
    this.rows = new Map();
  }

  show(items, current) {
    if (this.rows.size !== items.length || !items.every((item) => this.rows.has(item))) {
      this.rows = new Map(items.map((item) => [item, this.rows.get(item) ?? this.row(item)]));
      this.list.replaceChildren(...this.rows.values());
    }
    for (const [item, row] of this.rows) {
      const button = row.firstChild;
      row.className = item.status;
      button.setAttribute("aria-current", item === current);
      button.setAttribute("aria-label", [item.name, STATES[item.status]].filter(Boolean).join(", "));
      row.querySelector(".state").textContent = STATES[item.status];
      if (item.picture && item.thumbnail !== item.picture) {
        item.thumbnail = item.picture;
        thumbnail(row.querySelector("canvas"), item.picture);
      }
    }
  }

  row(item) {
    const row = document.createElement("li");
    row.innerHTML = '<button type="button"><canvas></canvas><span class="state"></span></button>';
    row.firstChild.title = item.name;
    row.firstChild.addEventListener("click", () => this.onSelect(item));
    return row;
  }
}

async function thumbnail(canvas, { pixels, width, height }) {
  const scale = Math.min(1, SIDE / Math.max(width, height));
  const bitmap = await createImageBitmap(new ImageData(pixels, width, height), {
    resizeWidth: Math.max(1, Math.round(width * scale)),
    resizeHeight: Math.max(1, Math.round(height * scale)),
    resizeQuality: "high",
  });
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}
