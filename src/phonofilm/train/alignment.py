"""Truth as a teacher: what the denoiser's tokens should know at half depth, and where its errors matter most.

Representation alignment (REPA, 2410.06940) speeds up the training of diffusion transformers by asking the features of
half depth for those of a pretrained network. The playhouse knows better than any network: which actor of which colour
covers each latent, what is heard in each column of sound, what a caption claims. Linear heads, dropped after training,
read it off the tokens, and the claims off the text encoder. At high noise only the text can tell what is to be seen, so
that the text is learnt early.

Shapes: B clips, T video latents in time, H x W latents, S columns of sound; P tokens of the stream, W their width;
L text tokens, C their width, A attributes of a scene.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phonofilm import storyboard
from phonofilm.latents import (
    COLUMNS_PER_LATENT,
    FRAMES_PER_LATENT,
    PATCH,
    PIXELS_PER_LATENT,
    SECONDS_PER_COLUMN,
    SECONDS_PER_LATENT,
    Geometry,
)
from phonofilm.model.reader import Reader
from phonofilm.playhouse.playhouse import Take
from phonofilm.playhouse.scene import (
    ACTS,
    CAMERAS,
    COLOURS,
    DIRECTIONS,
    FLOORS,
    KINDS,
    LIGHTS,
    MATERIALS,
    MAX_COUNT,
    SIZES,
    SPEEDS,
    Performance,
    Scene,
)
from phonofilm.playhouse.speech import WORDS

EVENTS: Final = ("impact", "knock", "strike", "ring", "tick", "chirp")
SUSTAINS: Final = ("roll", "scrape", "engine", "rain")
HEARD: Final = (*EVENTS, *SUSTAINS)  # flags of a column of sound; after them comes the word, 0 for none
QUIET: Final = 0.08  # level of a sustained sound under which it does not count
BLIND: Final = 0.95  # noise level from which on the strip itself tells little
ROUGHEST: Final = 0.4  # largest deviation of the noise on storyboards that are read
COVER: Final = 0.2  # share of a latent (4 frames, 16 x 16 pixels) that an actor must cover to be its actor


OF_ACTOR: Final[dict[str, tuple[Any, ...]]] = {
    "kind": KINDS, "act": tuple(sorted({act for acts in ACTS.values() for act in acts})), "colour": COLOURS,
    "size": SIZES, "material": MATERIALS, "direction": DIRECTIONS, "speed": SPEEDS,
    "count": tuple(range(1, MAX_COUNT + 1)), "word": WORDS,
}  # fmt: skip
CLAIMS: Final[dict[str, tuple[Any, ...]]] = {
    **{f"{slot}.{name}": values for slot in (0, 1) for name, values in OF_ACTOR.items()},
    "floor": FLOORS, "light": LIGHTS, "camera": CAMERAS,
}  # fmt: skip
"""What a caption may claim, and the values that each may have."""
assert {name: len(values) for name, values in CLAIMS.items()} == storyboard.CLAIMS


def claimed(scene: Scene, claims: Container[str] = tuple(CLAIMS)) -> list[int]:
    """For each of CLAIMS the number (1..) of the value that a caption claims of the scene, 0 where it does not.

    Without `claims`: all that is so, 0 for what the scene has not.
    """
    found = []
    for name, values in CLAIMS.items():
        slot, _, attribute = name.rpartition(".")
        if name not in claims or (slot and int(slot) >= len(scene.actors)):
            found.append(0)
            continue
        value = getattr(scene.actors[int(slot)] if slot else scene, attribute)
        found.append(values.index(value) + 1 if value in values else 0)
    return found


def truth_maps(shot: Take) -> dict[str, Tensor]:
    """What is where, for each latent of filmed clips, uint8.

    Returns:
        seen (B, 2, T, H, W): kind of the actor (1.., 0 for none; index in KINDS plus 1) and its colour (likewise).
        heard (B, S, len(HEARD) + 1): flags, and the spoken word (1.., 0 for none; index in WORDS plus 1).
    """
    B, frames, height, width, _ = shot.frames.shape
    T = frames // FRAMES_PER_LATENT
    seen = np.zeros((B, 2, T, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT), np.uint8)
    heard = np.stack([listen(play) for play in shot.performances])
    for b, (play, sights) in enumerate(zip(shot.performances, shot.sights, strict=True)):
        most = np.full(seen.shape[2:], COVER)
        for actor, sight in zip(play.scene.actors, sights, strict=True):
            cover = _cover(sight.box, *seen.shape[3:]).reshape(T, FRAMES_PER_LATENT, *seen.shape[3:]).mean(1)
            here = cover > most
            most = np.where(here, cover, most)
            seen[b, 0][here] = KINDS.index(actor.kind) + 1
            seen[b, 1][here] = COLOURS.index(actor.colour) + 1 if actor.colour else 0
    return {"seen": torch.from_numpy(seen), "heard": torch.from_numpy(heard)}


def spoken(play: Performance, tokens: int) -> Tensor:
    """(T,) int64: the word that is spoken in each token of the storyboard (index in WORDS plus 1), 0 for none."""
    words = torch.zeros(tokens, dtype=torch.int64)
    for event in play.events:
        if event.kind == "word":
            first, last = (int(at / SECONDS_PER_LATENT) for at in (event.time, event.time + event.seconds))
            words[first : last + 1] = WORDS.index(str(play.scene.actors[event.actor].word)) + 1
    return words


def _cover(box_T4: np.ndarray[Any, Any], rows: int, columns: int) -> np.ndarray[Any, Any]:
    """(T, rows, columns): share of each latent's square that a box covers."""
    box = np.nan_to_num(box_T4.astype(float), nan=-1.0) / PIXELS_PER_LATENT

    def overlap(low: np.ndarray[Any, Any], high: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
        cells = np.arange(count)
        inside: np.ndarray[Any, Any] = np.clip(
            np.minimum(high[:, None], cells + 1) - np.maximum(low[:, None], cells), 0, 1
        )
        return inside

    across, down = overlap(box[:, 0], box[:, 2], columns), overlap(box[:, 1], box[:, 3], rows)
    cover: np.ndarray[Any, Any] = down[:, :, None] * across[:, None, :]
    return cover


def listen(play: Performance) -> np.ndarray[Any, Any]:
    """What is heard of a performance: (S, len(HEARD) + 1) uint8, see `truth_maps`."""
    columns = len(play.tracks[0].x) // FRAMES_PER_LATENT * COLUMNS_PER_LATENT
    heard_SK = np.zeros((columns, len(HEARD) + 1), np.uint8)
    for event in play.events:
        first = int(event.time / SECONDS_PER_COLUMN)
        if event.kind == "word":
            last = int((event.time + event.seconds) / SECONDS_PER_COLUMN)
            heard_SK[first : last + 1, -1] = WORDS.index(str(play.scene.actors[event.actor].word)) + 1
        elif first < columns:
            heard_SK[first, HEARD.index(event.kind)] = 1
    middles = (np.arange(columns) + 0.5) * SECONDS_PER_COLUMN
    for sustain in play.sustains:
        loud = np.interp(middles, sustain.times, sustain.level) > QUIET
        heard_SK[loud, HEARD.index(sustain.kind)] = 1
    return heard_SK


class Alignment(nn.Module):
    """Linear heads on the denoiser's half depth. fold: video latents in time that share a token of the stream."""

    def __init__(self, width: int, fold: int) -> None:
        super().__init__()
        self.fold, self.cells = fold, fold * PATCH * PATCH
        self.norm = nn.LayerNorm(width, bias=False)
        self.kind = nn.Linear(width, self.cells * (len(KINDS) + 1))
        self.colour = nn.Linear(width, self.cells * (len(COLOURS) + 1))
        self.heard = nn.Linear(width, len(HEARD))
        self.word = nn.Linear(width, len(WORDS) + 1)
        self.spoken = nn.Linear(width, len(WORDS) + 1)
        self.scene = nn.ModuleList(nn.Linear(width, len(values) + 1) for values in CLAIMS.values())

    def forward(
        self,
        half_BPW: Tensor,
        batch: Mapping[str, Any],
        geometry: Geometry,
        learn_BN: Tensor,
        t_BN: Tensor,
        watched: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of what `batch` knows ("seen", "heard", "spoken", "so"), and points for the curves, if it
        is `watched`: they wait for the device.

        learn_BN, t_BN: where the denoiser has something to learn, and the noise levels. The points are shares that are
        right at levels of at least `BLIND`, where little but the text can tell: kind and colour where an actor is,
        and the word where one is spoken.
        """
        g = geometry
        folds = -(-g.latents // self.fold)
        video = slice(0, folds * g.n_picture)
        h = self.norm(half_BPW)
        total = h.new_zeros(())
        points: dict[str, Tensor] = {}
        if "seen" in batch and g.latents == batch["seen"].shape[2]:
            seen_2BPC = _cells(batch["seen"].to(h.device), self.fold)
            learn_BT = learn_BN[:, g.video].view(len(h), g.latents, -1)[:, :: self.fold].flatten(1)
            blind_BT = t_BN[:, g.video].view(len(h), g.latents, -1)[:, :: self.fold].flatten(1) >= BLIND
            weight_BPC = (learn_BT[..., None] * (1 + 3 * (seen_2BPC[0] > 0))).float()
            for name, head, truth in (("kind", self.kind, seen_2BPC[0]), ("colour", self.colour, seen_2BPC[1])):
                logits = head(h[:, video]).float().unflatten(-1, (self.cells, -1))
                loss = F.cross_entropy(logits.flatten(0, 2), truth.flatten(), reduction="none").view_as(weight_BPC)
                total = total + (loss * weight_BPC).sum() / weight_BPC.sum().clamp(min=1)
                if not watched:
                    continue
                there = (truth > 0) & (weight_BPC > 0) & blind_BT[..., None]
                points[name] = (logits.detach().argmax(-1) == truth)[there].float().mean()
        if "heard" in batch and g.n_audio == batch["heard"].shape[1]:
            heard_BSK = batch["heard"].to(h.device)
            learn_BS = learn_BN[:, g.audio]
            sound = h[:, video.stop : video.stop + g.n_audio]
            flags = F.binary_cross_entropy_with_logits(
                self.heard(sound).float(), heard_BSK[..., :-1].float(), reduction="none"
            ).mean(-1)
            word_BS = heard_BSK[..., -1].long()
            logits = self.word(sound).float()
            word = F.cross_entropy(logits.flatten(0, 1), word_BS.flatten(), reduction="none").view_as(learn_BS)
            total = total + ((flags + word) * learn_BS).sum() / learn_BS.sum().clamp(min=1)
            if watched:
                there = (word_BS > 0) & (learn_BS > 0) & (t_BN[:, g.audio] >= BLIND)
                points["word"] = (logits.detach().argmax(-1) == word_BS)[there].float().mean()
        if "spoken" in batch and g.boards == batch["spoken"].shape[1]:
            board_BTW, spoken_BT = h[:, -g.boards :], batch["spoken"].to(h.device)
            learn_BT = learn_BN[:, g.board]
            logits = self.spoken(board_BTW).float()
            word = F.cross_entropy(logits.flatten(0, 1), spoken_BT.flatten(), reduction="none").view_as(learn_BT)
            weight_BT = learn_BT * (1 + 3 * (spoken_BT > 0))
            total = total + (word * weight_BT).sum() / weight_BT.sum().clamp(min=1)
            if watched:
                there = (spoken_BT > 0) & (learn_BT > 0)
                points["spoken"] = (logits.detach().argmax(-1) == spoken_BT)[there].float().mean()
            if not g.latents and "so" in batch:
                asked_B = (learn_BT.sum(1) > 0).float()
                loss_BA = self._claims(board_BTW.mean(1), batch["so"].to(h.device))[0]
                total = total + (loss_BA.mean(1) * asked_B).sum() / asked_B.sum().clamp(min=1)
        if "so" in batch and g.latents:
            learn_BP = learn_BN[:, g.video].view(len(h), g.latents, -1)[:, :: self.fold].flatten(1)
            h_BW = (h[:, video] * learn_BP[..., None]).sum(1) / learn_BP.sum(1, keepdim=True).clamp(min=1)
            asked_B = (learn_BP.sum(1) > 0).float()
            blind_B = (t_BN[:, g.video].amax(1) >= BLIND) & (asked_B > 0)
            loss_BA, right_BA = self._claims(h_BW, batch["so"].to(h.device))
            total = total + (loss_BA.mean(1) * asked_B).sum() / asked_B.sum().clamp(min=1)
            if watched:
                for name in ("camera", "0.act", "0.speed"):
                    right_B = right_BA[:, list(CLAIMS).index(name)]
                    points[name.rpartition(".")[2]] = right_B[blind_B].float().mean()
        if not watched:
            return total, {}
        return total, {name: value for name, value in points.items() if not bool(value.isnan())}

    def _claims(self, h_BW: Tensor, so_BA: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of what is so, and whether it is guessed: (B, A) each."""
        return _entropies([guess(h_BW).float() for guess in self.scene], so_BA)


def _entropies(logits: Sequence[Tensor], truth_BA: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each attribute, of which each has its own number of values, and whether it is right: (B, A)."""
    most = max(x.shape[-1] for x in logits)
    logits_BAV = torch.stack([F.pad(x, (0, most - x.shape[-1]), value=-1e4) for x in logits], dim=1)
    loss_BA = F.cross_entropy(logits_BAV.flatten(0, 1), truth_BA.flatten(), reduction="none").view_as(truth_BA)
    return loss_BA, logits_BAV.detach().argmax(-1) == truth_BA


def reading_error(
    reader: Reader, batch: Mapping[str, Any], text_BLC: Tensor, mask_BL: Tensor, untold_B: Tensor, draw: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy of what a reader reads off captions and storyboards, and shares that are right.

    batch: "told", and "board" with "so". mask_BL: true where there is text. untold_B: rows whose text was dropped.
    Storyboards are read with a little noise, since drawn ones are not exact.
    """
    device = text_BLC.device
    keep_B = (~untold_B).float()
    told = _entropy(reader.tell(text_BLC, mask_BL), batch["told"].to(device), keep_B)
    total, points = told[0], {"told": told[1]}  # not a number where all text was dropped
    if "board" in batch and "so" in batch:
        board_BTD = batch["board"].to(device).float()
        rough_BTD = ROUGHEST * torch.rand(len(board_BTD), 1, 1, generator=draw)
        rough_BTD = rough_BTD * torch.randn(board_BTD.shape, generator=draw)
        shown = _entropy(reader.show(board_BTD + rough_BTD.to(device)), batch["so"].to(device), torch.ones_like(keep_B))
        total, points = total + shown[0], points | {"shown": shown[1]}
    return total, points


def _entropy(logits: list[Tensor], truth_BA: Tensor, weight_B: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over attributes, and the share that is right of those that are there."""
    loss_BA, right_BA = _entropies(logits, truth_BA)
    there_BA = (truth_BA > 0) & (weight_B > 0)[:, None]
    total = (loss_BA.mean(1) * weight_B).sum() / weight_B.sum().clamp(min=1)
    return total, (right_BA & there_BA).sum() / there_BA.sum()


def token_weights(batch: Mapping[str, Any], geometry: Geometry, extra: float) -> Tensor | None:
    """(B, N): 1 + `extra` for video tokens that show an actor, else 1; None where the batch knows no truth.

    What a minimum of the squared error predicts does not depend on the weights; how soon it is reached does.
    """
    g = geometry
    if "seen" not in batch or g.latents != batch["seen"].shape[2]:
        return None
    kind_BPC = _cells(batch["seen"], 1)[0]
    weight_BN = torch.ones(len(kind_BPC), g.n, device=kind_BPC.device)
    weight_BN[:, g.video] += extra * (kind_BPC > 0).any(-1)
    return weight_BN


def _cells(seen_B2THW: Tensor, fold: int) -> Tensor:
    """(2, B, P, C) int64: the C = fold 2 x 2 latents of each video token of the stream."""
    x = seen_B2THW
    missing = -x.shape[2] % fold
    if missing:
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    B, _, T, H, W = x.shape
    x = x.view(B, 2, T // fold, fold, H // PATCH, PATCH, W // PATCH, PATCH).permute(1, 0, 2, 4, 6, 3, 5, 7)
    return x.reshape(2, B, T // fold * (H // PATCH) * (W // PATCH), fold * PATCH * PATCH).long()
