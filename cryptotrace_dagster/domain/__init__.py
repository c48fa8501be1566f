"""The pure core: functions of frames and values. No clock, no environment, no input or output, no Dagster."""
