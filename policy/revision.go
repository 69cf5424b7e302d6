package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// The canonical forms are what revisions are hashes of: everything a value means and nothing else, so not where it was written,
// nor the order of what has none. A field of [gate] that is added has to be added here: a test walks them all.

type canonicalPolicy struct {
	Name            string
	Match, Except   []string
	Mode            gate.Mode
	OnFail          gate.OnFail
	AnyOf, AllOf    []string
	AtLeast         int                    `json:",omitempty"`
	MaxAge          time.Duration          `json:",omitempty"`
	EveryChild      bool                   `json:",omitempty"`
	Attestations    []canonicalAttestation `json:",omitempty"`
	VEX             []string               `json:",omitempty"`
	Vulnerabilities *canonicalVulnerabilities
	Secrets         *gate.SecretRule  `json:",omitempty"`
	Malware         *gate.MalwareRule `json:",omitempty"`
	MaxBytes        int64
	ForeignLayers   bool
	MinAge          time.Duration `json:",omitempty"`
	LastGood        time.Duration `json:",omitempty"`
	TolerateGaps    []string
	HostileConfig   bool                  `json:",omitempty"`
	RootUser        bool                  `json:",omitempty"`
	Labels          []gate.LabelPattern   `json:",omitempty"`
	MaxBaseAge      time.Duration         `json:",omitempty"`
	DenyPackages    []gate.PackagePattern `json:",omitempty"`
	Licenses        *canonicalLicenses    `json:",omitempty"`
	OS              *canonicalOS          `json:",omitempty"`
	Expressions     []canonicalExpression `json:",omitempty"`
}

type canonicalLicenses struct {
	Deny, Allow []string
	DenyUnknown bool
}

type canonicalOS struct {
	DenyEndOfLife bool
	Allow         []gate.OSPattern
}

type canonicalExpression struct{ Name, DenyIf, Message string }

type canonicalAttestation struct {
	PredicateTypes, AnyOf, AllOf, Conditions []string
	AtLeast                                  int
	MaxAge                                   time.Duration
}

type canonicalVulnerabilities struct {
	DenyAt      *gate.Severity
	OnlyFixable bool
	Grace       time.Duration
	Deny        []string
}

type canonicalWaiver struct {
	Vulnerability, Package string
	Rule                   gate.Rule
	Says                   string `json:",omitempty"`
	Repositories           []string
	Digest                 oci.Digest
	Until                  time.Time
	Reason, By             string
}

type canonicalAuthority struct {
	Name    string
	Keys    []canonicalKey
	KMS     []canonicalKey    `json:",omitempty"` // by reference in place of a fingerprint
	Keyless *canonicalKeyless `json:",omitempty"`
	// Notation is all meaning: certificates, and names in the order of their attributes.
	Notation *gate.Notation `json:",omitempty"`
}

type canonicalKeyless struct {
	Issuer, Subject gate.Wording
	Root            oci.Digest
	Tlog, SCT, TSA  int
}

type canonicalKey struct {
	Fingerprint         string
	NotBefore, NotAfter time.Time
}

// policyRevision identifies what policies say, in their order.
func policyRevision(policies []gate.Policy) string {
	forms := make([]canonicalPolicy, len(policies))
	for i, p := range policies {
		forms[i] = canonicalPolicy{
			Name: p.Name, Match: unordered(p.Match, oci.Pattern.String), Except: unordered(p.Except, oci.Pattern.String),
			Mode: p.Mode, OnFail: p.OnFail, Secrets: p.Secrets, Malware: p.Malware,
			AnyOf: unordered(p.Signatures.AnyOf, itself), AllOf: unordered(p.Signatures.AllOf, itself),
			AtLeast: p.Signatures.AtLeast, MaxAge: p.Signatures.MaxAge, EveryChild: p.Signatures.EveryChild, VEX: unordered(p.VEX, itself),
			MaxBytes: p.Image.MaxBytes, ForeignLayers: p.Image.UnsafeForeignLayers,
			MinAge: p.MinAge, LastGood: p.LastGood,
			TolerateGaps: unordered(p.TolerateGaps, func(k gate.GapKind) string { return string(k) }),
		}
		forms[i].addInputs(p)
		for _, a := range p.Attestations {
			forms[i].Attestations = append(forms[i].Attestations, canonicalAttestation{
				unordered(a.PredicateTypes, itself), unordered(a.AnyOf, itself), unordered(a.AllOf, itself),
				unordered(a.Conditions, gate.Condition.String), a.AtLeast, a.MaxAge,
			})
		}
		if v := p.Vulnerabilities; v != nil {
			forms[i].Vulnerabilities = &canonicalVulnerabilities{
				DenyAt: v.DenyAt, OnlyFixable: v.OnlyFixable, Grace: v.Grace, Deny: unordered(v.Deny, itself),
			}
		}
	}
	return revision("policies", forms)
}

// addInputs adds what p says of what images are.
func (c *canonicalPolicy) addInputs(p gate.Policy) {
	c.HostileConfig, c.RootUser, c.MaxBaseAge = p.Image.UnsafeHostileConfig, p.Image.DenyRootUser, p.Image.MaxBaseAge
	c.Labels = ordered(p.Image.RequireLabels, func(l gate.LabelPattern) string { return fmt.Sprintf("%q %q", l.Name, l.Value) })
	c.DenyPackages = ordered(p.DenyPackages, func(d gate.PackagePattern) string { return fmt.Sprintf("%q %q %q", d.Type, d.Name, d.Version) })
	if l := p.Licenses; l != nil {
		c.Licenses = &canonicalLicenses{unordered(l.Deny, itself), unordered(l.Allow, itself), l.DenyUnknown}
	}
	if o := p.OS; o != nil {
		c.OS = &canonicalOS{o.DenyEndOfLife, ordered(o.Allow, func(o gate.OSPattern) string { return fmt.Sprintf("%q %q", o.ID, o.Version) })}
	}
	for _, x := range p.Expressions { // in their order, which is that of nothing: whoever turns them has the images judged again
		c.Expressions = append(c.Expressions, canonicalExpression{x.Name, x.DenyIf.String(), x.Message})
	}
}

// ordered returns a copy of all in the order of their texts, which are all that they mean.
func ordered[T any](all []T, text func(T) string) []T {
	return slices.SortedFunc(slices.Values(all), func(a, b T) int { return cmp.Compare(text(a), text(b)) })
}

// waiverRevision identifies what waivers say, in their order: the first that fits is the one a verdict names. It does not depend
// on the time, so a waiver lapses without a new revision; verdicts that lean on it lapse with it.
func waiverRevision(waivers []gate.Waiver) string {
	forms := make([]canonicalWaiver, len(waivers))
	for i, w := range waivers {
		forms[i] = canonicalWaiver{
			Vulnerability: w.Vulnerability, Package: w.Package, Rule: w.Rule, Says: w.Says,
			Repositories: unordered(w.Repositories, oci.Pattern.String), Digest: w.Digest,
			Until: w.Until.UTC(), Reason: w.Reason, By: w.By,
		}
	}
	return revision("waivers", forms)
}

// rootsRevision identifies authorities, their keys and when these count. Both are sorted by whoever built them.
func rootsRevision(authorities []gate.Authority) string {
	forms := make([]canonicalAuthority, len(authorities))
	for i, a := range authorities {
		forms[i].Name = a.Name
		for _, k := range a.Keys {
			forms[i].Keys = append(forms[i].Keys, canonicalKey{k.Fingerprint, k.NotBefore.UTC(), k.NotAfter.UTC()})
		}
		for _, k := range a.KMS {
			forms[i].KMS = append(forms[i].KMS, canonicalKey{k.Reference, k.NotBefore.UTC(), k.NotAfter.UTC()})
		}
		forms[i].Notation = a.Notation
		if k := a.Keyless; k != nil {
			forms[i].Keyless = &canonicalKeyless{k.Issuer, k.Subject, k.RootDigest, k.Tlog, k.SCT, k.TSA}
		}
	}
	return revision("roots", forms)
}

// revision hashes forms. The kind keeps revisions of different things apart.
func revision(kind string, forms any) string {
	encoded, err := json.Marshal([]any{kind, forms})
	if err != nil { // nothing in the forms can fail: their times are within the years [strict.instant] lets pass
		panic(fmt.Sprintf("encoding %s: %v", kind, err))
	}
	return oci.FromBytes(encoded).String()
}

func itself(s string) string { return s }

// unordered returns all as sorted text, each once. None and nothing are the same.
func unordered[T any](all []T, text func(T) string) []string {
	var list []string
	for _, t := range all {
		list = append(list, text(t))
	}
	slices.Sort(list)
	return slices.Compact(list)
}
