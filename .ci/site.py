"""Refuses a built site that would fetch anything from elsewhere: python .ci/site.py FOLDER."""

import re
import sys
from pathlib import Path

# what a browser fetches by itself; links that a reader follows are no matter
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|embed)\b[^>]*\bsrc=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|url\(["']?((?:https?:)?//[^"')]+)"""
    r"""|@import\s+["']((?:https?:)?//[^"']+)"""
)
folder = Path(sys.argv[1])
pages = [*folder.rglob("*.html"), *folder.rglob("*.css"), *folder.rglob("*.svg")]
found = {
    f"{page.relative_to(folder)}: {''.join(match)}"
    for page in pages
    for match in FETCHED.findall(page.read_text(encoding="utf-8"))
}
if not pages or found:
    sys.exit("\n".join(["Expected pages that fetch nothing from elsewhere, got", *sorted(found)]))
if any('class="mermaid"' in page.read_text(encoding="utf-8") for page in folder.rglob("*.html")):
    sys.exit("Expected no mermaid, whose script the theme fetches from elsewhere. Draw an SVG.")
print(f"{len(pages)} pages, style sheets and pictures that fetch nothing from elsewhere")
