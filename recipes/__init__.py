from pathlib import Path

CHOICES = Path(__file__).resolve().parent.parent / "conf"  # what a run can choose
