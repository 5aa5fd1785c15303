"""One SE block in depth: what a click on a row or a cell of Look opens, and the script that hears the click.

The page's script knows no numbers of its own: it reads them from the barcodes, and tells the app block and channel.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ...checkpoints.checkpoint import ENOUGH_FOR_Z
from ...explanation.explanation import Explanation
from ...visual.bitmap import (
    DIVERGING,
    FULL_DIFFERENCE,
    SEQUENTIAL,
    channel_overlay,
    flat,
    gate_grid,
    ground,
    shift_overlay,
)
from ..i18n import say
from .explore import DIFFERENCE_SCALE, GATES_SCALE, file_name, img, saved, signed

COLUMNS = 32  # of the grid: on a phone a cell is then as wide as half a fingertip
SHOWN = 8  # channels that moved most
GRID = "{title} of {block}, {count} channels a row"
MULTIPLIES = "a channel’s map is what its gate multiplies: orange above 0, blue below; channels are counted from 0"
CSS = """
.mnv3 .barcode { position: relative; cursor: crosshair; }
.mnv3 .barcode:focus-visible, .mnv3 button:focus-visible { outline: 2px solid #d9741a; outline-offset: 2px; }
.mnv3 .barcode i { position: absolute; box-sizing: border-box; border: 2px solid #d9741a; outline: 1px solid #fff;
  pointer-events: none; }
.mnv3 button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
.mnv3 button.row { font-weight: 600; text-align: left; }
.mnv3 button.row::after { content: " ▸"; opacity: .6; } .mnv3 button.row[aria-expanded=true]::after { content: " ▾"; }
.mnv3 button.save { text-decoration: underline; text-underline-offset: 2px; font-size: 11px; padding: 4px; }
.mnv3 figcaption button.save { float: right; padding: 0 0 4px 6px; }
.mnv3 tr[data-block]:hover > * { background: var(--background-fill-secondary); }
.mnv3 tr[data-block] > td { cursor: pointer; }
.mnv3 td.detail { background: var(--background-fill-secondary); padding: 10px 12px 12px; }
.mnv3 .side-by-side { display: flex; flex-wrap: wrap; gap: 12px 16px; align-items: flex-start; margin-bottom: 8px; }
.mnv3 .side-by-side figure { flex: 0 1 216px; min-width: 130px; }
.mnv3 .side-by-side .big { max-width: none; } .mnv3 .side-by-side figcaption { min-height: 4.3em; }
.mnv3 .side-by-side .grid figcaption { min-height: 0; margin-bottom: 4px; }
.mnv3 .side-by-side .numbers { flex: 1 1 220px; }
.mnv3 .side-by-side figure.grid { flex: 1 1 260px; max-width: 420px; }
.mnv3 .cells { width: 100%; image-rendering: pixelated; }
.mnv3 .moved { display: flex; flex-wrap: wrap; gap: 8px; align-items: flex-start; }
.mnv3 .moved button { width: 96px; text-align: left; font-size: 11px; line-height: 1.3; }
.mnv3 .moved img { width: 96px; height: 96px; border-radius: 3px; }
.mnv3 .moved button[aria-pressed=true] img { outline: 2px solid #d9741a; }
.mnv3 .nothing { width: 96px; height: 96px; display: grid; align-content: center; border-radius: 3px;
  border: 1px dashed var(--border-color-primary); padding: 4px; }
.mnv3 .heading { display: flex; justify-content: space-between; margin-bottom: 6px; }
.mnv3-tip { position: fixed; z-index: 50; pointer-events: none; padding: 3px 8px; border-radius: 4px; font-size: 12px;
  background: #1f2937; color: #fff; max-width: 92vw; }
@media (max-width: 640px) {
  .mnv3 table.panel tr.detail { grid-template-columns: minmax(0, 1fr); }
  .mnv3 .side-by-side figure { flex: 1 1 130px; }
}
"""
SCRIPT = r"""
const tip = document.createElement('div')
tip.className = 'mnv3-tip'; tip.hidden = true; tip.setAttribute('aria-hidden', 'true')
document.body.append(tip)
const signed = (value) => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(1)
const numbers = (box) => box.dataset.gates ? box.dataset
  : element.querySelector(`.barcode[data-gates][data-block="${box.dataset.block}"]`)?.dataset
const count = (box) => numbers(box)?.gates.split(' ').length || 0
const words = (box, channel) => {
  const known = numbers(box), of = (name) => known[name].split(' ')[channel] / (name == 'z' ? 10 : 1000)
  const [of_channel, of_gate, of_reference] = known.words.split(';')  // in the page's language
  return `${known.name} · ${of_channel} ${channel} · ${of_gate} ${of('gates').toFixed(3)}` +
    ` · ${of_reference} ${of('reference').toFixed(3)}` + (known.z ? ` · z ${signed(of('z'))}` : '')
}
const under = (box, event) => {  // the channel under the pointer, or null beyond the last one
  const place = box.getBoundingClientRect(), columns = Number(box.dataset.columns), all = count(box)
  const share = (value, size) => Math.min(Math.max(value / size, 0), 0.999999)
  const row = Math.floor(share(event.clientY - place.top, place.height) * Math.ceil(all / columns))
  const channel = Math.floor(share(event.clientX - place.left, place.width) * columns) + row * columns
  return channel < all ? channel : null
}
const show = (text, x, y) => {
  tip.textContent = text; tip.hidden = false
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 8)) + 'px'
  tip.style.top = (y > innerHeight - 60 ? y - 34 : y + 16) + 'px'
}
const hide = () => { tip.hidden = true }
const save = (name, address) => {
  const link = document.createElement('a')
  link.href = address; link.download = name; link.click()
}
const picture = (image) => {  // barcodes are one pixel a channel: enlarged for the file
  const size = [image.naturalWidth, image.naturalHeight], pixelated = getComputedStyle(image).imageRendering != 'auto'
  const times = pixelated ? [Math.ceil(512 / size[0]), Math.ceil(size[1] > 2 ? 512 / size[0] : 32)] : [1, 1]
  const canvas = document.createElement('canvas'), brush = canvas.getContext('2d')
  canvas.width = size[0] * times[0]; canvas.height = size[1] * times[1]
  brush.imageSmoothingEnabled = false
  brush.drawImage(image, 0, 0, canvas.width, canvas.height)
  return canvas.toDataURL('image/png')
}
element.addEventListener('pointermove', (event) => {
  const box = event.target.closest('.barcode'), channel = box && under(box, event)
  if (box && channel !== null) show(words(box, channel), event.clientX, event.clientY)
  else hide()
})
element.addEventListener('pointerleave', hide)
element.addEventListener('focusout', hide)
element.addEventListener('click', (event) => {
  hide()
  const box = event.target.closest('.barcode'), button = event.target.closest('button')
  const row = event.target.closest('[data-block]')
  if (button?.dataset.save) save(button.dataset.save, picture(button.closest('figure').querySelector('img')))
  else if (button?.dataset.file) trigger('save', {kind: button.dataset.file})
  else if (box) {
    const channel = event.detail ? under(box, event) : Number(box.getAttribute('aria-valuenow'))
    if (channel !== null) trigger('click', {block: Number(box.dataset.block), channel})
  } else if (button?.dataset.close !== undefined || row?.dataset.open !== undefined) trigger('click', {})
  else if (row) {
    const channel = row.dataset.channel  // of a button; a row has none, and shows the one that moved most
    trigger('click', {block: Number(row.dataset.block), channel: channel ? Number(channel) : null})
  }
})
element.addEventListener('keydown', (event) => {
  const box = event.target.closest('.barcode[role=slider]')
  if (!box) return
  const last = count(box) - 1, now = Number(box.getAttribute('aria-valuenow')), page = Math.ceil(last / 10)
  const steps = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: page, PageDown: -page,
                 Home: -last, End: last}
  if (event.key == 'Enter' || event.key == ' ') box.click()
  else if (event.key in steps) {
    const channel = Math.min(Math.max(now + steps[event.key], 0), last), place = box.getBoundingClientRect()
    box.setAttribute('aria-valuenow', channel)
    box.setAttribute('aria-valuetext', words(box, channel))
    show(words(box, channel), place.left + (channel + 0.5) / (last + 1) * place.width, place.top + 6)
  } else return
  event.preventDefault()
})
"""


def opened(explanation: Explanation, block: int, channel: int | None = None) -> str:
    """The inside of a row that was opened: maps and numbers of one channel (the one that moved most without one)."""
    name, moved = explanation.blocks[block].name, explanation.most_moved(block, SHOWN)
    channel = moved[0] if channel is None else channel
    maps = explanation.channels(block)
    small = ground(explanation.picture, 96)
    buttons = [_moved_button(explanation, block, c, maps[c], small, c == channel) for c in moved]
    return (
        f"<div class='heading'><b>{say('Inside {block}', block=name)}</b>"
        f"<button data-close aria-label='{say('Close {block}', block=name)}'>{say('Close')} ✕</button></div>"
        f"<div class='side-by-side'>{_channel_figure(explanation, block, channel, maps[channel])}"
        f"{_shift_figure(explanation, block)}<div class='numbers'>{_numbers(explanation, block)}</div></div>"
        f"<div class='side-by-side'>{_grids(explanation, block, channel)}</div>"
        f"<p>{say('The channels whose gates moved most from their reference; click one to see it large:')}</p>"
        f"<div class='moved'>{''.join(buttons)}</div>"
    )


def channel_words(explanation: Explanation, block: int, channel: int) -> str:
    """'gate 0.833 · reference 0.512 · z +1.2'; without z where the reference pictures are too few."""
    z_scores = explanation.z_scores
    z = f" · z\u00a0{signed(float(z_scores[block][channel]), 1)}" if z_scores else ""
    gate, reference = explanation.gates[block][channel], explanation.reference.reference()[block][channel]
    return say("gate {gate:.3f} · reference {reference:.3f}", gate=gate, reference=reference) + z


def unseen(values: np.ndarray) -> str:
    """Why a channel's map (h, w) is not drawn, in words; '' where it can be."""
    if not values.any():
        return say("0 everywhere: nothing comes through, whatever its gate")
    if values.size == 1:
        return say("a single cell of {value}: it can’t say where", value=signed(float(values[0, 0]), 2))
    if flat(values):
        return say("{value} everywhere: it can’t say where", value=signed(float(values[0, 0]), 2))
    return ""


def _channel_figure(explanation: Explanation, block: int, channel: int, values: np.ndarray) -> str:
    """One channel's map over the picture, with its numbers; in words where there is nothing to see."""
    name, all_channels = explanation.blocks[block].name, len(explanation.gates[block])
    caption = say("Channel {channel} of {count}", channel=channel, count=all_channels)
    caption += f"<small>{channel_words(explanation, block, channel)}</small>"
    if words := unseen(values):
        words = say("This channel is {words}.", words=words)
        return f"<figure><figcaption aria-live='polite'>{caption}</figcaption><p>{words}</p></figure>"
    row, column = np.unravel_index(np.abs(values).argmax(), values.shape)
    alt = say(
        "Channel {channel} of {block}, strongest in row {row}, column {column} of {height} by {width}",
        channel=channel, block=name, row=row + 1, column=column + 1, height=len(values), width=len(values[0]),
    )  # fmt: skip
    shown = img(channel_overlay(ground(explanation.picture, 256), values), alt, "big smooth")
    save = saved(file_name(explanation, name, "channel", channel))
    return f"<figure><figcaption aria-live='polite'>{save}{caption}</figcaption>{shown}</figure>"


def _shift_figure(explanation: Explanation, block: int) -> str:
    """Where the block moved energy, large; in words where it moved none."""
    name, side = explanation.blocks[block].name, explanation.blocks[block].side
    colours = say("blue: away, orange: to; {side}×{side}", side=side)
    caption = f"{say('Energy moved by {block}', block=name)}<small>{colours}</small></figcaption>"
    overlay = shift_overlay(ground(explanation.picture, 256), explanation.shift(block))
    if overlay is None:
        nowhere, nothing = say("One cell: there is no other place to move to."), say("Nothing moved to another place.")
        return f"<figure><figcaption>{caption}<p>{nowhere if side == 1 else nothing}</p></figure>"
    share = np.abs(explanation.shift(block)).sum() / 2
    alt = say("{block} moved {share:.1%} of the activation energy to other places", block=name, share=share)
    shown = img(overlay, alt, "big smooth")
    return f"<figure><figcaption>{saved(file_name(explanation, name, 'energy-moved'))}{caption}{shown}</figure>"


def _numbers(explanation: Explanation, block: int) -> str:
    """How many gates are closed, open, between; means; what never opened in training; what z is."""
    gates, reference = explanation.gates[block], explanation.reference.reference()[block]
    lines = [say("<b>{count} gates</b>: mean {mean:.3f}, of the reference {reference:.3f}",
                 count=len(gates), mean=gates.mean(), reference=reference.mean())]  # fmt: skip
    if counts := explanation.closed_open(block):
        closed, open_ = counts
        lines.append(say("{closed} closed (exactly 0), {opened} open (exactly 1), {between} between",
                         closed=closed, opened=open_, between=len(gates) - closed - open_))  # fmt: skip
        if explanation.reference.count >= ENOUGH_FOR_Z:
            dead = int((reference == 0).sum())
            lines.append(say("{dead} dead: closed in all {count:,} reference pictures too",
                             dead=dead, count=explanation.reference.count))  # fmt: skip
    moved = np.abs(explanation.shift(block)).sum() / 2
    lines.append(say("{share:.1%} of the activation energy went to other places", share=moved))
    lines.append(
        say("z: (gate − reference) / standard deviation over the reference pictures") if explanation.z_scores
        else say("no z-scores: they need at least {count} reference pictures", count=ENOUGH_FOR_Z)
    )  # fmt: skip
    lines.append(say(MULTIPLIES))
    return "".join(f"<p>{line}</p>" for line in lines)


def _grids(explanation: Explanation, block: int, channel: int) -> str:
    """Every channel as a cell a finger can hit, in reading order: gates, and gates minus reference."""
    gates, reference = explanation.gates[block], explanation.reference.reference()[block]
    name, columns = explanation.blocks[block].name, min(COLUMNS, len(gates))
    pictures = (
        (say("Gates"), GATES_SCALE, "gates", gate_grid(gates, SEQUENTIAL, 0, 1, columns)),
        (say("Gates − reference"), DIFFERENCE_SCALE, "difference",
         gate_grid(gates - reference, DIVERGING, -FULL_DIFFERENCE, FULL_DIFFERENCE, columns)),
    )  # fmt: skip
    rows = -(-len(gates) // columns)
    row, column = divmod(channel, columns)
    mark = (
        f"<i style='left:{100 * column / columns:.2f}%;top:{100 * row / rows:.2f}%;"
        f"width:{100 / columns:.2f}%;height:{100 / rows:.2f}%'></i>"
    )
    return "".join(
        f"<figure class='grid'><figcaption>{saved(file_name(explanation, name, kind))}{title}"
        f"<small>{say('{scale}; click a cell to see its channel', scale=scale)}</small></figcaption>"
        f"<div class='barcode' data-block='{block}' data-columns='{columns}'>"
        f"{img(picture, say(GRID, title=title, block=name, count=columns), 'cells')}{mark}</div></figure>"
        for title, scale, kind, picture in pictures
    )


def _moved_button(
    explanation: Explanation, block: int, channel: int, values: np.ndarray, under: Image.Image, pressed: bool
) -> str:
    """A channel as a small map and its numbers, to click on."""
    words = unseen(values)
    alt = say("Map of channel {channel}", channel=channel)
    small = f"<span class='nothing'>{words}</span>" if words else (
        img(channel_overlay(under, values), alt, "small")
    )  # fmt: skip
    numbers = channel_words(explanation, block, channel).replace(" · ", "<br>")
    return (
        f"<button data-block='{block}' data-channel='{channel}' aria-pressed='{str(pressed).lower()}'>{small}"
        f"<b>{channel}</b><br>{numbers}</button>"
    )
