package scan

import (
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// lastDays maps a distribution, by os-release's ID, to the last day each release is mended for everybody free of charge, as its maker
// announces it: Debian's long-term support included, Ubuntu's extended maintenance not. A release is found by its longest name here
// that begins its version.
var lastDays = map[string]map[string]string{
	"debian": {
		"7": "2018-05-31", "8": "2020-06-30", "9": "2022-06-30", "10": "2024-06-30", "11": "2026-08-31", "12": "2028-06-30", "13": "2030-06-30",
	},
	"ubuntu": {
		"14.04": "2019-04-25", "16.04": "2021-04-30", "18.04": "2023-05-31", "20.04": "2025-05-31", "20.10": "2021-07-22", "21.04": "2022-01-20",
		"21.10": "2022-07-14", "22.04": "2027-04-30", "22.10": "2023-07-20", "23.04": "2024-01-25", "23.10": "2024-07-11", "24.04": "2029-04-30",
		"24.10": "2025-07-10", "25.04": "2026-01-15", "25.10": "2026-07-31",
	},
	"alpine": {
		"3.8": "2020-05-01", "3.9": "2020-11-01", "3.10": "2021-05-01", "3.11": "2021-11-01", "3.12": "2022-05-01", "3.13": "2022-11-01", "3.14": "2023-05-01",
		"3.15": "2023-11-01", "3.16": "2024-05-23", "3.17": "2024-11-22", "3.18": "2025-05-09", "3.19": "2025-11-01", "3.20": "2026-04-01", "3.21": "2026-11-01",
		"3.22": "2027-05-01",
	},
	"rhel":          {"5": "2017-03-31", "6": "2020-11-30", "7": "2024-06-30", "8": "2029-05-31", "9": "2032-05-31", "10": "2035-05-31"},
	"centos":        {"5": "2017-03-31", "6": "2020-11-30", "7": "2024-06-30", "8": "2021-12-31", "9": "2027-05-31"},
	"rocky":         {"8": "2029-05-31", "9": "2032-05-31", "10": "2035-05-31"},
	"almalinux":     {"8": "2029-05-31", "9": "2032-05-31", "10": "2035-05-31"},
	"ol":            {"6": "2021-03-31", "7": "2024-12-31", "8": "2029-07-31", "9": "2032-06-30"},
	"amzn":          {"2018.03": "2023-12-31", "2": "2026-06-30", "2022": "2022-11-01", "2023": "2029-06-30"},
	"mariner":       {"1.0": "2023-07-31", "2.0": "2025-07-31"},
	"sles":          {"12.5": "2024-10-31", "15.3": "2022-12-31", "15.4": "2023-12-31", "15.5": "2024-12-31", "15.6": "2025-12-31", "15.7": "2031-07-31"},
	"opensuse-leap": {"15.2": "2021-12-31", "15.3": "2022-12-31", "15.4": "2023-12-07", "15.5": "2024-12-31", "15.6": "2026-04-30"},
	ubuntuExtended:  {"14.04": "2024-04-25", "16.04": "2026-04-30", "18.04": "2028-04-30", "20.04": "2030-05-31", "22.04": "2032-04-30", "24.04": "2034-04-30"},
}

// ubuntuExtended is Ubuntu with esm-infra, which whoever built the image has paid for or registered.
const ubuntuExtended = "ubuntu with extended maintenance"

// EndOfLife returns the moment from which the distribution of an image is no longer mended, UTC. ok is false when that is not known:
// for a rolling distribution, one that is not in the table above, or a release newer than it.
func EndOfLife(inv gate.Inventory) (end time.Time, ok bool) {
	id := inv.OS.ID
	if id == "ubuntu" && slices.Contains(inv.Channels, extendedMaintenance) {
		id = ubuntuExtended
	}
	release := ""
	for known := range lastDays[id] {
		if (inv.OS.Version == known || strings.HasPrefix(inv.OS.Version, known+".")) && len(known) > len(release) {
			release = known
		}
	}
	day, err := time.Parse(time.DateOnly, lastDays[id][release])
	if err != nil {
		return time.Time{}, false // there is no such day
	}
	return day.AddDate(0, 0, 1), true
}
