"""Scripts of launch/ with a recorder in place of Python: which commands they give."""

import shutil
import stat
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[1] / "launch"


def install(folder, script, recorder):
  """Copies launch/SCRIPT and cpu.sh into FOLDER/launch, with the shell text `recorder` as their Python, and returns the
  script's path."""
  (folder / "launch").mkdir()
  for name in (script, "cpu.sh"):
    shutil.copy(LAUNCH / name, folder / "launch")
  python = folder / "recorder"
  python.write_text(recorder)
  python.chmod(python.stat().st_mode | stat.S_IXUSR)
  (folder / "launch" / "environment.sh").write_text(f"python={python}\nxla_flags() {{ :; }}\n")
  return str(folder / "launch" / script)
