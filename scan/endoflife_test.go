package scan

import (
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

func TestEndOfLife(t *testing.T) {
	for _, tt := range []struct {
		id, version string
		channels    []string
		want        string
	}{
		{"debian", "10", nil, "2024-07-01"},
		{"debian", "12.5", nil, "2028-07-01"},
		{"debian", "1", nil, ""},
		{"ubuntu", "18.04", nil, "2023-06-01"},
		{"ubuntu", "18.04", []string{"esm-apps", "esm-infra"}, "2028-05-01"},
		{"alpine", "3.1", nil, ""},
		{"alpine", "3.10.2", nil, "2021-05-02"},
		{"alpine", "3.22.0_alpha20250108", nil, "2027-05-02"},
		{"alpine", "edge", nil, ""},
		{"rhel", "7.9", nil, "2024-07-01"},
		{"amzn", "2", nil, "2026-07-01"},
		{"amzn", "2023.6.20250107", nil, "2029-07-01"},
		{"opensuse-leap", "15.6", nil, "2026-05-01"},
		{"wolfi", "20230201", nil, ""},
		{"slackware", "15", nil, ""},
		{"", "", nil, ""},
	} {
		end, ok := EndOfLife(gate.Inventory{OS: gate.OS{ID: tt.id, Version: tt.version}, Channels: tt.channels})
		got := ""
		if ok {
			got = end.Format(time.DateOnly)
		}
		if got != tt.want {
			t.Errorf("%s %s %v ends on %q, want %q", tt.id, tt.version, tt.channels, got, tt.want)
		}
	}
}

func TestLastDaysAreDays(t *testing.T) {
	for id, releases := range lastDays {
		for release, day := range releases {
			if _, err := time.Parse(time.DateOnly, day); err != nil {
				t.Errorf("%s %s: %v", id, release, err)
			}
		}
	}
}
