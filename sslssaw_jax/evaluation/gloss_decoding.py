"""Glosses from a recogniser's probabilities, on the host: search and alignment.

T positions in time, G glosses with the blank, P prefixes, S states of a path: blanks and glosses in turn.
"""

from collections.abc import Sequence

import numpy as np

from sslssaw_jax.data.glosses import BLANK


def prefix_beam(log_probs_TxG: np.ndarray, beams: int) -> list[tuple[tuple[int, ...], float]]:
    """Return probable gloss sequences with their log-probabilities, best first.

    The probability of a sequence is the sum over its paths. The search is exact if no prefix is dropped.

    Args:
        log_probs_TxG: For each gloss at each position.
        beams: The prefixes that are kept at each position.
    """
    prefixes: list[tuple[int, ...]] = [()]
    in_blank_P, in_gloss_P = np.zeros(1), np.full(1, -np.inf)  # of the paths that end this way
    for scores_G in log_probs_TxG.astype(float):
        total_P = np.logaddexp(in_blank_P, in_gloss_P)
        last_P = np.array([prefix[-1] if prefix else BLANK for prefix in prefixes])
        longer_PxG = total_P[:, None] + scores_G
        longer_PxG[np.arange(len(prefixes)), last_P] = in_blank_P + scores_G[last_P]  # a repeat needs a blank
        longer_PxG[:, BLANK] = -np.inf
        in_blank_P, in_gloss_P = total_P + scores_G[BLANK], in_gloss_P + scores_G[last_P]
        place = {prefix: number for number, prefix in enumerate(prefixes)}
        for number, prefix in enumerate(prefixes):
            if prefix and prefix[:-1] in place:  # the same sequence, reached from two prefixes
                parent = place[prefix[:-1]], prefix[-1]
                in_gloss_P[number] = np.logaddexp(in_gloss_P[number], longer_PxG[parent])
                longer_PxG[parent] = -np.inf
        found = np.concatenate([np.logaddexp(in_blank_P, in_gloss_P), longer_PxG.ravel()])
        best = np.argsort(-found, kind="stable")[:beams]
        best = best[found[best] > -np.inf]
        parents, glosses = np.divmod(best - len(prefixes), len(scores_G))
        stays = best < len(prefixes)
        parents = np.where(stays, best, parents)
        in_blank_P = np.where(stays, in_blank_P[parents], -np.inf)
        in_gloss_P = np.where(stays, in_gloss_P[parents], found[best])
        prefixes = [
            prefixes[parent] if stay else (*prefixes[parent], gloss)
            for parent, gloss, stay in zip(parents.tolist(), glosses.tolist(), stays.tolist())
        ]
    return list(zip(prefixes, np.logaddexp(in_blank_P, in_gloss_P).tolist()))


def align(log_probs_TxG: np.ndarray, glosses: Sequence[int]) -> np.ndarray:
    """Return the most probable path of glosses, i[T] (Viterbi).

    The value at each position is the place of its gloss in the sequence, -1 at blanks.

    Raises:
        ValueError: There are too few positions for the glosses.
    """
    state_S = np.full(2 * len(glosses) + 1, BLANK)
    state_S[1::2] = glosses
    skips_S = np.zeros(len(state_S), bool)  # may follow the gloss before without a blank between
    skips_S[3::2] = state_S[3::2] != state_S[1:-2:2]
    best_S = np.where(np.arange(len(state_S)) < 2, log_probs_TxG[0, state_S], -np.inf)
    steps = []
    for scores_G in log_probs_TxG[1:]:
        before_3xS = np.full((3, len(state_S)), -np.inf)
        before_3xS[0], before_3xS[1, 1:] = best_S, best_S[:-1]
        before_3xS[2, 2:] = np.where(skips_S[2:], best_S[:-2], -np.inf)
        steps.append(before_3xS.argmax(axis=0))
        best_S = before_3xS.max(axis=0) + scores_G[state_S]
    state = len(state_S) - 1
    if glosses and best_S[state - 1] > best_S[state]:
        state -= 1
    if best_S[state] == -np.inf:
        raise ValueError(f"{len(log_probs_TxG)} positions are too few for the glosses {list(glosses)}")
    path = [state]
    for step_S in reversed(steps):
        path.append(path[-1] - int(step_S[path[-1]]))
    path_T = np.array(path[::-1])
    return np.where(path_T % 2 == 1, path_T // 2, -1)
