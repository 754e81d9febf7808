"""An object's identity: digests of values, code and sources that are the same in every process."""

from daskcache.fingerprint.declare import effect, fingerprint_as, version
from daskcache.fingerprint.declared_files import source
from daskcache.fingerprint.digest import DIGEST_SIZE, RULES, Digester
from daskcache.fingerprint.loaded import LoadedCode
from daskcache.fingerprint.objects import Fingerprinter, fingerprint, register
from daskcache.fingerprint.units import check_code_units

__all__ = [
    "DIGEST_SIZE",
    "RULES",
    "Digester",
    "Fingerprinter",
    "LoadedCode",
    "check_code_units",
    "effect",
    "fingerprint",
    "fingerprint_as",
    "register",
    "source",
    "version",
]
