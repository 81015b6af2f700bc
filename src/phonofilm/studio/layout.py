"""The page: what stands where, and which action it calls.

All events are plain calls: no queue, no streams, no state on the server. (Annotations are not postponed here: Gradio
reads those of its handlers.)
"""

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from phonofilm.playhouse.captions import EXAMPLES
from phonofilm.request import MAX_PROMPT
from phonofilm.serve.access import CALLER, Caller
from phonofilm.studio import panels
from phonofilm.studio.actions import BUSY_SECONDS, PAGE, USES, Actions, told

if TYPE_CHECKING:
    import gradio

HEAD: Final = (
    "<h1>Phonofilm</h1><p>Type a sentence, get a short film whose picture and sound were made together.</p>"
    '<span class="facts">model: {model}</span>'
)
LEAVE: Final = '<form method="post" action="/studio/key"><button class="act">Forget my key</button></form>'
FOLDER: Final = Path(__file__).parent
ACTS: Final = """element.addEventListener('click', e => {
  const b = e.target.closest('[data-act]');
  if (b && (!b.dataset.sure || confirm(b.dataset.sure))) trigger('act', {act: b.dataset.act, id: b.dataset.id || ''});
})"""
"""Makes buttons in HTML call us: data-act, data-id, and a question to be asked before, data-sure."""
PAINT: Final = """<div class="paint" hidden><p class="row"><button type="button" class="act" data-do="open">Paint a part
to be made anew</button><span class="facts" role="status">All of the picture stays</span></p>
<dialog aria-labelledby="paint-what"><p id="paint-what"><b>What is to be made anew?</b></p>
<p class="note" id="paint-how">Paint with finger, pen or mouse on the first frame; or move the brush with the arrow keys
and press the space bar. It holds for the whole film, in squares of 32 of its pixels; all else stays.</p>
<div class="easel"><canvas aria-hidden="true"></canvas><canvas tabindex="0" role="application" autofocus
aria-label="First frame of the clip, to paint on" aria-describedby="paint-how paint-now"></canvas><i></i></div>
<p class="row"><label>Brush <input type="range" min="16" max="160" value="64" step="8"></label>
<button type="button" class="act" data-do="erase" aria-pressed="false">Erase</button>
<button type="button" class="act" data-do="clear">Clear</button></p>
<p class="facts" id="paint-now" role="status"></p>
<p class="row"><button type="button" class="act" data-do="use">Use it</button>
<button type="button" class="act" data-do="cancel">Cancel</button></p></dialog></div>"""
"""Where the mask of a clip is painted: `studio.easel` makes it work."""


def build(actions: Actions) -> "gradio.Blocks":
    """The page as Gradio's blocks."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    import gradio as gr

    able = actions.able

    def html(value: str, name: str, **more: Any) -> gr.HTML:
        return gr.HTML(value, elem_id=name, apply_default_css=False, **more)

    still: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    page: gradio.Blocks = gr.Blocks(title="Phonofilm", analytics_enabled=False)
    with page:
        html(HEAD.format(model=escape(able.name)), "head")
        me = html("", "me")
        with gr.Row(elem_id="main"):
            with gr.Column(scale=4, min_width=320, elem_id="form"):
                about = html("", "about", js_on_load=ACTS)
                prompt = gr.Textbox(
                    label="What is seen and heard", lines=1, max_lines=6, max_length=MAX_PROMPT, elem_id="prompt",
                    placeholder="a golden bell rings twice at dusk",
                )  # fmt: skip
                hints = html("", "hints")
                examples = html(_examples(), "examples", js_on_load=f"{ACTS}; studio.chips(element)")
                with gr.Column() as knobs:
                    size = gr.Radio(_sizes(able), value="square", label="Format", elem_id="size")
                with gr.Row() as time:
                    low, high = able.seconds
                    seconds = gr.Slider(
                        low, high, min(high, 3.0), step=able.seconds_step, label="Seconds", min_width=200, buttons=[],
                    )  # fmt: skip
                    seed = gr.Textbox(label="Seed", placeholder="any", max_lines=1, max_length=19, min_width=100)
                places = _media(able.conditions)
                media = html("{}", "media", html_template=places, js_on_load="studio.media(element, props, watch)")
                with gr.Accordion("Fine control", open=False) as fine:
                    negative = gr.Textbox(label="What is not wanted", lines=1, max_length=MAX_PROMPT)
                    takes = gr.Slider(1, 4, 1, step=1, label="Takes, of which the best match is kept", buttons=[])
                go = gr.Button("Make the film", variant="primary", elem_id="go")
                say = html("", "say")
                queue = html("", "queue", js_on_load=ACTS)
            with gr.Column(scale=7, min_width=320, elem_id="show"):
                stage = html("", "stage", js_on_load=f"{ACTS}; studio.stage(element)")
                history = html("", "history", js_on_load=ACTS)
        html(panels.signed(actions.signer()), "foot")
        chosen, mode, shown = (gr.Textbox("", visible=False) for _ in range(3))
        many = gr.Number(PAGE, visible=False)
        clock = gr.Timer(BUSY_SECONDS)

        form = [prompt, negative, size, seconds, seed, takes]
        view = [stage, queue, history, shown, clock]
        every = [about, chosen, mode, many, say, media, prompt, size, seconds, seed, knobs, time, fine, examples, go]

        def looked(who: Caller, id: str, count: float, before: str) -> dict[Any, Any]:
            html, now, wait = actions.look(who, id, int(count or PAGE), before)
            changed = {part: html[name] for part, name in ((stage, "stage"), (queue, "queue"), (history, "history"))}
            found: dict[Any, Any] = {part: text for part, text in changed.items() if text is not None}
            return found | {shown: now, clock: gr.Timer(wait)}

        def look(request: gr.Request, id: str, count: float, before: str) -> dict[Any, Any]:
            return looked(_caller(request), id, count, before)

        def make(request: gr.Request, given: str, how: str, count: float, before: str, *fields: Any) -> dict[Any, Any]:
            who, names = _caller(request), ("prompt", "negative_prompt", "size", "seconds", "seed", "best_of")
            try:
                job = actions.make(who, dict(zip(names, fields, strict=True)), given, how)
            except Exception as error:
                return {say: panels.said(told(error), bad=True)}
            return looked(who, job.id, count, before) | plain(job.id) | {say: ""}

        def plain(id: str) -> dict[Any, Any]:
            """The form of a new film."""
            parts = {part: gr.update(visible=True) for part in (knobs, time, fine, examples, media)}
            return parts | {chosen: id, mode: "", about: "", go: gr.update(value="Make the film")}

        def act(request: gr.Request, event: gr.EventData, id: str, count: float, before: str) -> dict[Any, Any]:
            who, did, on = _caller(request), str(event.act), str(event.id)
            try:
                if did == "more":
                    return {many: count + PAGE} | looked(who, id, count + PAGE, before)
                if did in ("remix", "extend"):
                    return borrow(who, did, on)
                if did == "stop":
                    return plain(id) | {say: ""}
                if did == "example":
                    return {prompt: EXAMPLES[int(on) % len(EXAMPLES)]}
                next_ = actions.act(who, did, on)
                now = id if next_ is None else next_
                return {chosen: now, say: ""} | looked(who, now, count, before)
            except Exception as error:
                return {say: panels.said(told(error), bad=True)}

        def borrow(who: Caller, how: str, id: str) -> dict[Any, Any]:
            """The form of a film that is made from another one."""
            wish, remix = actions.source(who, id).request, how == "remix"
            hidden = {part: gr.update(visible=False) for part in (knobs, fine, examples, media)}
            words = "the same noise, size and length under other words" if remix else "what happens next"
            return hidden | {
                time: gr.update(visible=not remix), mode: f"{how}:{id}", prompt: wish.prompt, say: "",
                about: _about(f"{'Remix' if remix else 'Extend'}: {words}", wish.prompt),
                go: gr.update(value="Remix the film" if remix else "Extend the film"),
            }  # fmt: skip

        state = [chosen, many, shown]
        after: dict[str, Any] = {"js": "() => studio.reveal()", **still}
        gr.on([page.load, clock.tick], look, state, view, **still)

        def leave(request: gr.Request) -> str:
            return LEAVE if _caller(request).key else ""

        page.load(leave, None, me, **still)
        made = gr.on([go.click, prompt.submit], make, [media, mode, many, shown, *form], [*view, *every], **still)
        made.success(None, None, None, **after)
        prompt.change(actions.hints, prompt, hints, trigger_mode="always_last", **still)
        for part in (stage, queue, history, about, examples):
            part.act(act, state, [*view, *every], **still)
    return page


def theme() -> Any:
    """Paper and amber; the fonts of whoever looks."""
    import gradio as gr

    amber = gr.themes.Color(
        "#fdf6ea", "#f9e8cb", "#f5d7a3", "#f2c678", "#f0b25c", "#e39a35", "#b96f12", "#92560d", "#6d400b", "#4a2b07",
        "#2f1b04",
    )  # fmt: skip
    paper = gr.themes.Color(
        "#faf8f5", "#f3f0eb", "#e6e1d9", "#d2cbc0", "#a39b90", "#787168", "#57514a", "#3d3935", "#292724", "#1b1a19",
        "#121111",
    )  # fmt: skip
    fonts = ["system-ui", "sans-serif"]
    hues: dict[str, Any] = {"primary_hue": amber, "secondary_hue": amber, "neutral_hue": paper}
    return gr.themes.Base(**hues, radius_size="md", font=fonts, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_400", button_primary_background_fill_hover="*primary_300",
        button_primary_background_fill_dark="*primary_400", button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="#241a0b", button_primary_text_color_dark="#241a0b",
        body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950", block_label_text_size="*text_sm",
        block_background_fill="transparent", block_background_fill_dark="transparent", block_border_width="0px",
        block_border_width_dark="0px", block_shadow="none", block_padding="0px", form_gap_width="14px",
        input_background_fill="white", input_background_fill_dark="*neutral_900", input_border_width="1px",
        input_border_color="*neutral_200", input_border_color_dark="*neutral_700", border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700", checkbox_label_background_fill="white",
        checkbox_label_background_fill_dark="*neutral_900", checkbox_label_border_width="1px",
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",
    )  # fmt: skip


def _caller(request: "gradio.Request") -> Caller:
    who: Caller = request.request.scope[CALLER]  # type: ignore[union-attr]
    return who


def _about(what: str, prompt: str) -> str:
    stop = '<button class="act" data-act="stop" data-id="">A new film instead</button>'
    return f'<p class="note">{escape(what)}<br><b>{escape(prompt)}</b></p><p class="row">{stop}</p>'


def _examples() -> str:
    chips = "".join(
        f'<button class="chip" data-act="example" data-id="{k}" tabindex="{-(k > 0)}">{escape(text)}</button>'
        for k, text in enumerate(EXAMPLES)
    )
    return f'<div class="chips" role="group" aria-label="Examples">{chips}</div>'


def _sizes(able: Any) -> list[tuple[str, str]]:
    """Formats by name where they have one."""
    from phonofilm.clip import FORMATS

    names = {pixels: name for name, pixels in FORMATS.items()}
    return [(names.get((w, h), f"{w}×{h}").capitalize(), names.get((w, h), f"{w}x{h}")) for w, h in able.sizes]


def _media(roles: tuple[str, ...]) -> str:
    """Places for an image to begin with, one to end with, and a sound or clip; those that the model can take."""
    places = [("first", "First image", "image/*")] if "first" in roles else []
    places += [("last", "Last image", "image/*")] if "last" in roles else []
    uses = [name for name, (role, _) in USES.items() if role in roles]
    places += [("media", "Sound or clip", "audio/*,video/*")] if uses else []
    tiles = "".join(
        f'<div class="tile" data-place="{place}"><label><input type="file" accept="{accept}"><span>{name}</span>'
        f'</label><button class="act" hidden aria-label="Remove: {name}">×</button></div>'
        for place, name, accept in places
    )
    options = "".join(f"<option>{name}</option>" for name in uses)
    paint = PAINT if {"video", "mask"} <= set(roles) else ""
    return (
        f'<fieldset><legend>Begin from something</legend><div class="tiles">{tiles}</div>'
        f'<label class="use" hidden>Take <select>{options}</select></label>{paint}'
        '<p class="note warn" role="alert"></p></fieldset>'
    )
