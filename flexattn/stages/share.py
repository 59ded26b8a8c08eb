"""Which requests go to the newer stage: those whose id hashes below its share.

    newer(id)  <=>  int(SHA-256(id)[:13], 16) < share * 16^13

So a request id always goes the same way, and a larger share takes nobody back.
"""

from __future__ import annotations

import hashlib

DIGITS = 13  # hex digits that a float64 holds exactly


def goes_newer(request_id: str, share: float) -> bool:
    """Whether a request goes to the newer stage.

    Args:
      request_id: the asker's name for the request, any text.
      share: of all requests, 0..1.
    """
    digest = hashlib.sha256(request_id.encode("utf-8")).hexdigest()
    return int(digest[:DIGITS], 16) < share * 16**DIGITS
