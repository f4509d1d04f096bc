// What people do: choose, drop and paste files, press buttons, move sliders.

/**
 * Connects the page's controls.
 *
 * @param {(id: string) => HTMLElement} element finds an element.
 * @param {object} handlers `addFiles(files)`, `actions` by the buttons' data-do, `settings` by name.
 */
export function connectInputs(element, { addFiles, actions, settings }) {
  const file = element("file");
  file.addEventListener("change", () => {
    addFiles(file.files);
    file.value = ""; // so that choosing the same file again is a change
  });
  connectDropping(addFiles);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) addFiles(files);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { do: action, save, example } = button.dataset;
    if (action) actions[action]();
    if (save) actions.save(save);
    if (example) actions.example(example);
  });
  connectSettings(element, settings);
}

function connectDropping(addFiles) {
  let depth = 0; // of elements the pointer is inside of: leaving a child is not leaving the page
  const show = () => document.body.classList.toggle("drag", depth > 0);
  document.addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth++;
    show();
  });
  document.addEventListener("dragleave", () => {
    depth--;
    show();
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    show();
    addFiles(event.dataTransfer.files);
  });
}

function connectSettings(element, settings) {
  const opacity = element("opacity");
  opacity.addEventListener("input", () => {
    element("opacity-value").textContent = `${opacity.value} %`;
    settings.opacity(opacity.value / 100);
  });
  for (const input of document.querySelectorAll("input[name=view]")) {
    input.addEventListener("change", () => {
      element("tint").hidden = input.value !== "overlay";
      settings.view(input.value);
    });
  }
  for (const input of document.querySelectorAll("input[name=place]")) {
    input.addEventListener("change", () => settings.place(input.value));
  }
  element("model").addEventListener("change", (event) => settings.model(event.target.value));
  element("size").addEventListener("change", (event) => settings.size(Number(event.target.value)));
}
