"""From pictures to label maps, overlays and areas, without torch."""
