"""What a metric is, by its name: a loss that should fall, a norm of gradients, or something else. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal

Kind = Literal["loss", "gradient_norm", "other"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_CROSS_ENTROPY: Final = re.compile(r"cross[-_ ]?entropy", re.IGNORECASE)
_NAMESPACE: Final = re.compile(r"loss(es)?/", re.IGNORECASE)
_LOSS: Final = _words("loss losses nll xent crossentropy bpb bpc")
# What may follow the word: whose loss it is, or which mean of it.
_AFTER: Final = _words(
    """train training trn val valid validation eval evaluation test dev holdout held out mean avg average total all sum
    epoch step steps batch iter iteration per token ema smooth smoothed running raw global local micro rank ce lm mlm
    sft ntp mse mae l1 l2 unscaled scaled reduced main task of on the set value"""
)
# Losses that need not fall: of actors and critics, of generators and discriminators, of regularisers.
_RESTLESS: Final = _words(
    """value vf critic policy pg actor q qf td alpha ent entropy temperature surrogate advantage ppo dqn sac rl
    gen generator g disc discriminator d adv adversarial gan kl kld kldiv vq commit commitment codebook aux auxiliary
    balance balancing router z reg regularization regularizer penalty weight decay ratio scale"""
)
# What also comes of the weights alone: once it is not finite, nothing that follows is.
_LIKE_A_LOSS: Final = _words(
    """perplexity ppl kl kld kldiv likelihood loglikelihood logprob elbo err errd errg mse rmse mae ce bce objective
    regularizer regularization penalty divergence"""
)
_NO_LOSS: Final = _words("scale scaler weight weights ratio coef std var count time limit threshold")
_GRADIENT: Final = _words("grad grads gradient gradients")
_NORM: Final = _words("norm norms")
_NOT_A_NORM: Final = _words("clip clipped clipping ratio scale coef threshold limit std var count time max")


def kind_of(metric: str) -> Kind:
    """`train/loss`, `eval_loss`, `Loss/val`, `nll` → loss; `grad_norm`, `grad/norm/layer1` → gradient_norm; else other.

    Perplexities, likelihoods, rewards and accuracies are other, and so are the losses of reinforcement learning and of
    adversaries (`value_loss`, `d_loss`), which rise when all is well.
    """
    words = [word.lower() for word in _WORD.findall(_CROSS_ENTROPY.sub("xent", metric))]
    known = set(words)
    if known & {"gnorm", "gradnorm"} or (known & _GRADIENT and known & _NORM):
        return "other" if known & _NOT_A_NORM else "gradient_norm"
    place = _place_of_loss(words)
    if place is None or _RESTLESS & set(words[:place]):
        return "other"
    after = words[place + 1 :]
    if _NAMESPACE.search(metric):  # loss/anything
        return "other" if _RESTLESS & set(after) else "loss"
    return "loss" if all(word in _AFTER or word.isdigit() for word in after) else "other"


def is_like_a_loss(metric: str) -> bool:
    """Whether a value that is not finite means that the run is lost: losses of all kinds, likelihoods, perplexities.

    A score may be 0 / 0 for once (`eval/f1`, `explained_variance`), and a scale of losses may overflow.
    """
    words = [word.lower() for word in _WORD.findall(_CROSS_ENTROPY.sub("xent", metric))]
    place = _place_of_loss(words)
    if place is not None:
        return not _NO_LOSS & set(words[place + 1 :])
    return bool(_LIKE_A_LOSS & set(words)) and not _NO_LOSS & set(words)


def _place_of_loss(words: list[str]) -> int | None:
    """Where the last word is that says loss."""
    for place in range(len(words) - 1, -1, -1):
        if words[place] in _LOSS:
            return place
    return None
