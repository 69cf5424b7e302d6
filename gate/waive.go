package gate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// waive splits reasons into those that stand and those a waiver sets aside, and lets v lapse when the first waiver it leaned on
// does. Each waived reason says who waived it.
func waive(waivers []Waiver, c Candidate, reasons []Reason, now time.Time, v *Verdict) (standing, waived []Reason) {
	for _, r := range reasons {
		i := slices.IndexFunc(waivers, func(w Waiver) bool { return w.covers(c, r, now) })
		if i < 0 {
			standing = append(standing, r)
			continue
		}
		w := waivers[i]
		v.lapseAt(w.Until)
		r.Waiver = fmt.Sprintf("%s, until %s: %s", w.By, w.Until.UTC().Format(time.RFC3339), w.Reason)
		waived = append(waived, r)
	}
	return standing, waived
}

// covers reports whether w sets r aside for c at now.
func (w Waiver) covers(c Candidate, r Reason, now time.Time) bool {
	return now.Before(w.Until) && w.reaches(c) && w.names(r)
}

func (w Waiver) reaches(c Candidate) bool {
	if w.Digest == "" && len(w.Repositories) == 0 {
		return false
	}
	if w.Digest != "" && w.Digest != c.Digest {
		return false
	}
	name := c.Repository.String()
	return len(w.Repositories) == 0 || slices.ContainsFunc(w.Repositories, func(p oci.Pattern) bool { return p.Match(name) })
}

func (w Waiver) names(r Reason) bool {
	if w.Vulnerability == "" {
		return w.Rule != "" && w.Rule == r.Rule
	}
	return r.Finding != nil && strings.EqualFold(w.Vulnerability, r.Finding.ID) &&
		(w.Package == "" || w.Package == r.Finding.Package.Type+"/"+r.Finding.Package.Name)
}
