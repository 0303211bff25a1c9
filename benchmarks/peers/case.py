"""Reads the texts of weft's cases (`weft bench --help`): what operation, which sizes, which flags."""

import re


class Case:
    """gemm:f32:m64n64k64:nt -> operation "gemm", size {"m": 64, ...}, flags ["nt"]; a block's last word is its pass."""

    def __init__(self, text):
        self.text = text
        words = text.split(":")
        if len(words) < 3 or words[1] != "f32":
            raise ValueError(f"case {text!r}: an operation, f32 and sizes are needed")
        self.operation = words[0]
        self.size = {}
        for name, digits in re.findall(r"([a-z]+)(\d+)", words[2]):
            self.size[name] = int(digits)
        self.flags = [flag for word in words[3:] for flag in word.split(".")]

    def has(self, flag):
        return flag in self.flags

    def only(self, *known):
        """What a peer does not do is no case of its: never timed as something else."""
        unknown = [flag for flag in self.flags if flag and flag not in known]
        if unknown:
            raise NotImplementedError(f"{self.text}: no {unknown[0]} in this peer")
