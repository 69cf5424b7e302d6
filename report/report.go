// Package report writes what the gate found out about images in the formats other programs read: CycloneDX 1.6, SPDX 2.3, SARIF 2.1.0
// and OpenVEX 0.2.0.
//
// It promises that equal values give equal bytes, that every string an image's author wrote is where the format has strings and nowhere
// else, and that nothing is said that the gate did not find, or was not told by somebody whose word counts: a finding that a waiver set
// aside is still a finding. It must not judge, fetch, or know the time of day.
package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Report is what is written about.
type Report struct {
	// Name is how the image was asked for: "docker.io/library/nginx:1.27".
	Name string
	// Version is of the program that found it out.
	Version string
	// Created is when, UTC. Formats know whole seconds.
	Created time.Time
	// Images are what was asked for and, where that is an index, its children after it. At least one.
	Images []Image
}

// Image is what is known of one image or index.
type Image struct {
	Candidate gate.Candidate
	// Inventory is empty for an index.
	Inventory gate.Inventory
	// Verdict is nil for an image that was not judged.
	Verdict *gate.Verdict
}

// standing is what became of a finding.
type standing string

const (
	denied   standing = "denied"   // it is a reason of the denial
	warned   standing = "warned"   // it would be, were the policy enforced
	waived   standing = "waived"   // a waiver set it aside
	excused  standing = "excused"  // somebody whose word counts states that it does not matter
	recorded standing = "recorded" // the policy does not mind it
)

// finding is a finding and what became of it.
type finding struct {
	gate.Finding
	standing standing
	// why is the message of the reason or, when it was waived, who did, until when and why, or who states what of one that is excused; empty
	// for one that is recorded.
	why string
	// excuse is what is stated of one that is excused.
	excuse gate.Excuse
}

// findingKey tells one finding of an image from another.
type findingKey struct{ id, packageType, name, version, path string }

func keyOf(f gate.Finding) findingKey {
	return findingKey{f.ID, f.Package.Type, f.Package.Name, f.Package.Version, f.Path}
}

// findings returns the findings of the image in the order of its verdict. One that is a reason twice has the graver standing. What is
// stated of one holds also where the policy does not mind it: to tell others that it is affected would be to contradict who knows better.
func (i Image) findings() []finding {
	if i.Verdict == nil {
		return nil
	}
	became := map[findingKey]finding{}
	for _, list := range []struct {
		standing standing
		reasons  []gate.Reason
	}{{waived, i.Verdict.Waived}, {warned, i.Verdict.Warnings}, {denied, i.Verdict.Reasons}} {
		for _, r := range list.reasons {
			if r.Finding != nil {
				became[keyOf(*r.Finding)] = finding{standing: list.standing, why: cmp.Or(r.Waiver, r.Message)}
			}
		}
	}
	var found []finding
	for _, f := range i.Verdict.Findings {
		one := became[keyOf(f)]
		if x, ok := i.Verdict.Excuse(f); ok && one.standing == "" {
			one.standing, one.excuse, one.why = excused, x, x.String()
		}
		one.Finding, one.standing = f, cmp.Or(one.standing, recorded)
		found = append(found, one)
	}
	return found
}

// advice says what can be done about a finding.
func (f finding) advice() string {
	switch {
	case f.FixedVersion != "":
		return fmt.Sprintf("update %s to %s", f.Package.Name, f.FixedVersion)
	case f.Status == "will_not_fix":
		return "there is no fix, and the distribution will not make one"
	case f.Status == "end_of_life":
		return "there is no fix, and the release gets none any more"
	}
	return "there is no fix yet"
}

// advisoryURL returns where an advisory can be read or, where only its publisher knows that, a name for it that is a URI.
func advisoryURL(id string) string {
	switch {
	case strings.HasPrefix(id, "CVE-"):
		return "https://nvd.nist.gov/vuln/detail/" + escape(id)
	case strings.HasPrefix(id, "GHSA-"):
		return "https://github.com/advisories/" + escape(id)
	}
	return "urn:tidewaiter:advisory:" + escape(id)
}

// component is a package of an image and every place it was found in.
type component struct {
	gate.Package
	purl string
	// paths is sorted; at least one.
	paths []string
	// layers are in the order of paths.
	layers []string
}

// components returns the packages of the image, each once, sorted by package URL. A package that a finding names and the inventory does
// not have, since it was matched by another, is among them.
func (i Image) components() []component {
	byPURL := map[string]*component{}
	add := func(p gate.Package, path, layer string) {
		purl := packageURL(p, i.Inventory.OS)
		c := byPURL[purl]
		if c == nil {
			c = &component{Package: p, purl: purl}
			byPURL[purl] = c
		}
		if at, found := slices.BinarySearch(c.paths, path); !found {
			c.paths, c.layers = slices.Insert(c.paths, at, path), slices.Insert(c.layers, at, layer)
		}
	}
	for _, p := range i.Inventory.Packages {
		add(p.Package, p.Path, p.Layer.String())
	}
	if i.Verdict != nil {
		for _, f := range i.Verdict.Findings {
			add(f.Package, f.Path, "")
		}
	}
	var all []component
	for _, c := range byPURL {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b component) int { return cmp.Compare(a.purl, b.purl) })
	return all
}

// gaps returns what could not be examined of the image, each once: what reading its layers and, if it was judged, matching found.
func (i Image) gaps() []gate.Gap {
	gaps := slices.Clone(i.Inventory.Gaps)
	if i.Verdict != nil {
		for _, r := range slices.Concat(i.Verdict.Reasons, i.Verdict.Warnings, i.Verdict.Waived) {
			if r.Gap != nil && !slices.Contains(gaps, *r.Gap) {
				gaps = append(gaps, *r.Gap)
			}
		}
	}
	return gaps
}

// gapText returns a gap in one line.
func gapText(g gate.Gap) string {
	parts := []string{string(g.Kind)}
	if g.Path != "" {
		parts = append(parts, g.Path)
	} else if g.Layer != "" {
		parts = append(parts, g.Layer.String())
	}
	return strings.Join(append(parts, g.Why), ": ")
}

// identity returns a number in hexadecimal that is the same for equal reports and no others, for the identities formats ask for.
func (r Report) identity(format string) string {
	h := sha256.New()
	// What cannot be encoded is no value of these types; a hash never fails.
	text, _ := json.Marshal(r)
	_, _ = fmt.Fprintf(h, "%s\n%s", format, text)
	return hex.EncodeToString(h.Sum(nil))
}

// uuid returns a report's identity in the form of RFC 9562, section 5.8, which leaves to whoever makes it how.
func (r Report) uuid(format string) string {
	raw, _ := hex.DecodeString(r.identity(format)[:32]) // it was just encoded
	raw[6], raw[8] = raw[6]&0x0f|0x80, raw[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}

// created returns the report's time as all the formats write times.
func (r Report) created() string { return stamp(r.Created) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// encode returns a document as JSON with a line end.
func encode(document any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(document)
	return b.Bytes(), err
}
