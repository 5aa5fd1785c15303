"""What the page brings to the browser besides its components: one style sheet, and two scripts."""

from __future__ import annotations

import json

from ..visual import svg
from .views import block, classes, compare, explore, models, trust
from .zh import CHINESE

LAYOUT = """
.gradio-container main { padding-top: 4px !important; } footer { margin-top: 8px; }
#picture .refused { position: absolute; inset: 30px 8px auto; margin: 0; text-align: center; font-size: 14px;
  pointer-events: none; }
#picture .source-selection { position: relative; z-index: 1; }
#picture img { line-height: 190px; text-align: center; }
#title { padding: 0; } #title h1 { margin: 0; display: inline; font-size: 20px; }
#title p { display: inline; margin-left: 12px; } #examples .gallery { gap: 4px; }
#notes .html-container, #panel .html-container, #pictures .html-container { padding: 0; }
footer .divider:last-child { display: none; }
footer :is(button, a, .divider) { color: var(--body-text-color) !important; opacity: .8; }
#right .tab-wrapper button.selected { color: #c2410c; } .dark #right .tab-wrapper button.selected { color: #fb923c; }
#many-shown .pending .hint { visibility: hidden; }
:is(#notes, #pictures, #panel) [data-testid=status-tracker] > * { display: none; }
#predictions [data-testid=status-tracker] { pointer-events: none; }
@media (max-width: 640px) {
  #right .tab-wrapper button { padding: 0 7px; }
  #left { display: contents; } #right { order: 1; } #examples { order: 2; }
  #notes:has(.problem), #notes:has(.hint) { order: -1; }
  #right [data-testid=status-tracker]:has(.progress-bar) .progress-text { display: none; }
}
"""
CSS = "".join([LAYOUT, explore.CSS, block.CSS, classes.CSS, compare.CSS, svg.CSS, trust.CSS, models.CSS])
SAVE_FILE = """(file) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file.text], { type: "text/plain" }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""
# what a browser gives as its reason, by the names of the specifications, and what the page says of it
REFUSED = {
    "camera": {
        "NotFoundError": "No camera was found: connect one, or upload a picture.",
        "NotAllowedError": "The browser keeps the camera from this page: allow it there, or upload a picture.",
        "NotReadableError": "The camera is in use elsewhere: free it, or upload a picture.",
    },
    "clipboard": {"NotAllowedError": "The browser keeps the clipboard from this page: press Ctrl+V instead."},
}
HEAD = """<script>
// what the browser can't draw has no torn icon: the sentence, or the picture as the network got it, stands beside it
for (const [event, seen] of [["error", "hidden"], ["load", ""]])
  document.addEventListener(event, ({ target }) => {
    if (target.matches?.("#picture img")) target.style.visibility = seen;
  }, true);
// an example is called by its file's name: jumbo jet
document.addEventListener("load", ({ target }) => {
  if (!target.matches?.("#examples img")) return;
  target.alt = target.src.split("/").pop().split(".")[0].replaceAll("-", " ");
}, true);
// a screen reader asks for it
if (navigator.language.startsWith("zh")) document.documentElement.lang = "zh-Hans";
// Gradio asks for the camera or the clipboard, and leaves the page as it was where the browser gives none
const refused = {refused};
addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof DOMException)) return;
  const of = document.querySelector("#picture [title='grant webcam access']") ? "camera" : "clipboard";
  const words = refused[of][event.reason.name];
  if (!words) return;
  event.preventDefault();
  const said = Object.assign(document.createElement("p"), { role: "alert", className: "refused" });
  document.querySelector("#picture .upload-container").append(said);
  said.textContent = words[Number(navigator.language.startsWith("zh"))];
});
document.addEventListener("click", () => document.querySelector("#picture .refused")?.remove(), true);
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  document.querySelector("#picture button[aria-label='Remove Image']")?.click();
  const give = (tries) => {
    const input = document.querySelector("#picture input[type=file]");
    if (!input) return tries && setTimeout(give, 50, tries - 1);
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  setTimeout(give, 50, 40);
});
</script>""".replace(  # Ctrl+V anywhere, which Gradio itself hears only on its clipboard button
    "{refused}",
    json.dumps({of: {name: [words, CHINESE[words]] for name, words in why.items()} for of, why in REFUSED.items()}),
)
