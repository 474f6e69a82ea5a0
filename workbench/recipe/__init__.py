"""Which weight becomes int4 and how: rules, presets, edits, history, differences."""
