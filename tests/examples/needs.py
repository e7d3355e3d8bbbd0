"""The packages that the shop needs, genepool[shop]: tests are skipped where one is absent."""

import bm25s  # noqa: F401
import httpx  # noqa: F401
import rapidfuzz  # noqa: F401
import starlette  # noqa: F401
import uvicorn  # noqa: F401
