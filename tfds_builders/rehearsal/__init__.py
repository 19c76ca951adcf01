"""Rehearsal corpora: releases with rendered frames in place of the licensed ones."""

POSES = "poses"  # the folder of a rehearsal corpus with a `.pose` file for each clip
