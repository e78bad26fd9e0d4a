"""From YAML to a validated experiment: components, sections, durations, and what `wb show` prints of them."""
