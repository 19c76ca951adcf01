"""Rehearsal corpora: releases with rendered frames in place of the licensed ones."""
