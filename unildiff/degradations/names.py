"""The names of CDD-11's degradations, which are its folders, in the order of the papers' tables."""

SINGLE = ("low", "haze", "rain", "snow")
DOUBLE = ("low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow")
TRIPLE = ("low_haze_rain", "low_haze_snow")
DEGRADATIONS: tuple[str, ...] = (*SINGLE, *DOUBLE, *TRIPLE)
