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
	var mine []Waiver // there may be many about other images, and a thousand reasons
	for _, w := range waivers {
		if now.Before(w.Until) && w.reaches(c) {
			mine = append(mine, w)
		}
	}
	for _, r := range reasons {
		i := slices.IndexFunc(mine, func(w Waiver) bool { return w.names(r) })
		if i < 0 {
			standing = append(standing, r)
			continue
		}
		w := mine[i]
		v.lapseAt(w.Until)
		r.Waiver = fmt.Sprintf("%s, until %s: %s", w.By, w.Until.UTC().Format(time.RFC3339), w.Reason)
		waived = append(waived, r)
	}
	return standing, waived
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
		return w.Rule != "" && w.Rule == r.Rule && (w.Says == "" || w.Says == r.Message)
	}
	return r.Finding != nil && strings.EqualFold(w.Vulnerability, r.Finding.ID) &&
		(w.Package == "" || w.Package == r.Finding.Package.Type+"/"+r.Finding.Package.Name)
}
