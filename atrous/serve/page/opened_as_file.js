// Browsers load no modules from files: this plain script says so where page.js cannot run.

if (location.protocol === "file:") {
  document.getElementById("loading").hidden = true;
  document.getElementById("alert").hidden = false;
  document.getElementById("alert-text").textContent =
    "This page works from a web server, not as a file. In its folder, run: python -m http.server";
}
