"""The identities of a graph's blocks: a Merkle hash over what is computed from what.

A token is made of the function's fingerprint and the tokens or fingerprints of its arguments, in order. Keys never
enter: a reference is replaced by the token of what it refers to. Layers that dask has not materialised
(``Blockwise``) are followed by their structure, block by block, without making their tasks.
"""

from daskcache.tokens.functions import Settled
from daskcache.tokens.graph import GraphTokens
from daskcache.tokens.rules import has_effect
from daskcache.tokens.steps import Step, name_function, steps_of

__all__ = ["GraphTokens", "Settled", "Step", "has_effect", "name_function", "steps_of"]
