package policy

import (
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// defaultWaiverMax is how far ahead a waiver may lapse when no file says otherwise: long enough for a quarter's release, short
// enough that somebody looks at the risk again.
const defaultWaiverMax = 2160 * time.Hour

// waiver reads one waiver. One that has lapsed is read like any other: it waives nothing, and a file does not go bad by itself.
func (d *draft) waiver(v value) {
	var w gate.Waiver
	has := d.mapping(v, fields{
		"vulnerability": func(v value) { w.Vulnerability, _ = d.word(v) },
		"package":       func(v value) { w.Package = d.packageName(v) },
		"rule":          func(v value) { w.Rule, _ = choice(&d.strict, v, words(gate.WaivableRules())) },
		"repositories":  func(v value) { w.Repositories = d.repositories(v) },
		"digest":        func(v value) { w.Digest = d.digest(v) },
		"until":         func(v value) { w.Until = d.until(v) },
		"reason":        func(v value) { w.Reason, _ = d.sentence(v) },
		"by":            func(v value) { w.By, _ = d.sentence(v) },
	})
	if has == nil {
		return
	}
	d.need(v, has, "until", "reason", "by")
	switch {
	case has["vulnerability"] == has["rule"]:
		d.refuse(v, "want exactly one of vulnerability and rule")
	case has["package"] && has["rule"]:
		d.refuse(v, "package narrows a vulnerability, not a rule")
	}
	if !has["digest"] && !has["repositories"] {
		d.refuse(v, "want repositories, digest or both: no waiver holds everywhere")
	}
	d.waivers = append(d.waivers, w)
}

// packageName reads "type/name" as findings name packages. A version after it would match no package, so it is refused; the '@'
// of an npm scope leads its component and is none.
func (d *draft) packageName(v value) string {
	t, ok := d.word(v)
	if !ok {
		return ""
	}
	kind, name, _ := strings.Cut(t, "/")
	if kind == "" || name == "" {
		d.refuse(v, "%.60q is no package: want type/name, such as deb/openssl", t)
		return ""
	}
	if strings.LastIndexByte(name, '@') > strings.LastIndexByte(name, '/')+1 {
		d.refuse(v, "%.60q has a version: a waiver holds for every version of a package", t)
		return ""
	}
	return t
}

func (d *draft) digest(v value) oci.Digest {
	t, ok := d.text(v)
	if !ok {
		return ""
	}
	digest, err := oci.ParseDigest(t)
	if err != nil {
		d.refuse(v, "%v", err)
	}
	return digest
}

func (d *draft) until(v value) time.Time {
	t, ok := d.instant(v)
	if ok {
		d.lapses = append(d.lapses, lapse{file: d.file, until: v, at: t})
	}
	return t
}

func (d *draft) waiverMax(v value) {
	limit, ok := d.duration(v)
	switch {
	case !ok:
	case d.limitAt != place{}:
		d.refuse(v, "is given at %s already", d.limitAt)
	case limit == 0:
		d.refuse(v, "want more than 0: without waivers there is nothing to limit")
	default:
		d.limit, d.limitAt = limit, d.at(v)
	}
}

// checkLapses refuses waivers that lapse later than the limit allows. It runs when all files are read, since any of them may set
// the limit.
func (d *draft) checkLapses(now time.Time) {
	latest := now.Add(d.limit)
	for _, l := range d.lapses {
		if l.at.After(latest) {
			d.file = l.file
			d.refuse(l.until, "%s is later than waiver_max (%s) from now allows, %s",
				l.at.Format(time.RFC3339), d.limit, latest.UTC().Format(time.RFC3339))
		}
	}
}
