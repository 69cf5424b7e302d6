package gate_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

var (
	noon  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	nginx = oci.Repository{Upstream: "docker.io", Path: "library/nginx"}
	log4j = gate.Finding{
		ID: "CVE-2021-44228", Severity: gate.Critical, FixedVersion: "2.15.0", Source: "maven::ghsa", Path: "app.jar",
		Package:   gate.Package{Type: "maven", Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1"},
		Published: time.Date(2021, 12, 10, 0, 0, 0, 0, time.UTC),
	}
	tarLow = gate.Finding{
		ID: "CVE-2005-2541", Severity: gate.Low, Source: "debian 12", Path: "var/lib/dpkg/status",
		Package: gate.Package{Type: "deb", Name: "tar", Version: "1.34+dfsg-1.2+deb12u1"},
	}
	unreadable = gate.Gap{Kind: gate.GapUnreadableLayer, Layer: digestOf("layer"), Why: "unexpected EOF"}
	eicar      = gate.Infection{Signature: "Eicar-Test-Signature", Path: "opt/tool", Layer: digestOf("layer")}
	signedBy   = func(authority string) gate.Signature {
		return gate.Signature{Authority: authority, Format: "sigstore-bundle", Signer: authority + "'s key", Manifest: digestOf("signature")}
	}
)

func digestOf(s string) oci.Digest { return oci.FromBytes([]byte(s)) }

func pattern(t testing.TB, s string) oci.Pattern {
	t.Helper()
	p, err := oci.ParseFullPattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ptr[T any](v T) *T { return &v }

func imageOf(layers ...oci.Descriptor) oci.Manifest {
	return oci.Manifest{
		MediaType: oci.MediaTypeImage, Layers: layers,
		Config: oci.Descriptor{MediaType: oci.MediaTypeConfig, Digest: digestOf("config"), Size: 100},
	}
}

func layerOf(name string, size int64) oci.Descriptor {
	return oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: digestOf(name), Size: size}
}

// strict is a policy with every kind of demand, over everything.
func strict(t testing.TB) gate.Policy {
	return gate.Policy{
		Name: "strict", Match: []oci.Pattern{pattern(t, "**")}, OnFail: gate.Quarantine,
		Signatures:      gate.SignatureRule{AnyOf: []string{"release", "ci"}},
		Vulnerabilities: &gate.VulnerabilityRule{DenyAt: ptr(gate.High), OnlyFixable: true},
		Image:           gate.ImageRule{MaxBytes: 1000},
	}
}

// clean is evidence strict has nothing against.
func clean() gate.Evidence {
	return gate.Evidence{
		Candidate: gate.Candidate{Repository: nginx, Digest: digestOf("image")}, Manifest: imageOf(layerOf("layer", 100)),
		Looked:            gate.Look{Secrets: true, Malware: true},
		SignatureEvidence: gate.SignatureEvidence{Signatures: []gate.Signature{signedBy("release")}}, ConfigExamined: true, Config: &gate.ImageConfig{User: "1000", OS: "linux", Architecture: "amd64"}, Examined: true,
	}
}

func TestDecide(t *testing.T) {
	type change struct {
		policy   func(*gate.Policy)
		evidence func(*gate.Evidence)
		waivers  []gate.Waiver
	}
	find := func(f gate.Finding) func(*gate.Evidence) {
		return func(e *gate.Evidence) { e.Findings = append(e.Findings, f) }
	}
	tests := map[string]struct {
		change
		want []gate.Rule // the rules of the reasons; none is an admission
	}{
		"admits what is signed, examined and clean":          {},
		"denies when no policy matches":                      {change{policy: func(p *gate.Policy) { p.Match = nil }}, []gate.Rule{gate.RuleMatch}},
		"denies when the only policy excepts the repository": {change{policy: func(p *gate.Policy) { p.Except = []oci.Pattern{pattern(t, "docker.io/**")} }}, []gate.Rule{gate.RuleMatch}},
		"denies the unsigned":                                {change{evidence: func(e *gate.Evidence) { e.Signatures = nil }}, []gate.Rule{gate.RuleSignatures}},
		"denies what a stranger signed":                      {change{evidence: func(e *gate.Evidence) { e.Signatures[0].Authority = "stranger" }}, []gate.Rule{gate.RuleSignatures}},
		"a signature whose key has run out does not count":   {change{evidence: func(e *gate.Evidence) { e.Signatures[0].Until = noon }}, []gate.Rule{gate.RuleSignatures}},
		"any of the authorities is enough":                   {change: change{evidence: func(e *gate.Evidence) { e.Signatures[0].Authority = "ci" }}},
		"all of the authorities are needed": {change{policy: func(p *gate.Policy) {
			p.Signatures = gate.SignatureRule{AllOf: []string{"release", "ci"}}
		}}, []gate.Rule{gate.RuleSignatures}},
		"two signatures by one authority do not stand for two authorities": {change{
			policy:   func(p *gate.Policy) { p.Signatures = gate.SignatureRule{AllOf: []string{"release", "ci"}} },
			evidence: func(e *gate.Evidence) { e.Signatures = append(e.Signatures, signedBy("release")) },
		}, []gate.Rule{gate.RuleSignatures}},
		"denies a fixable finding at the severity": {change{evidence: find(log4j)}, []gate.Rule{gate.RuleVulnerabilities}},
		"admits a finding below the severity":      {change: change{evidence: find(tarLow)}},
		"an unrated finding counts as low": {change{
			policy:   func(p *gate.Policy) { p.Vulnerabilities = &gate.VulnerabilityRule{DenyAt: ptr(gate.Low)} },
			evidence: func(e *gate.Evidence) { f := tarLow; f.Severity = gate.Unrated; e.Findings = []gate.Finding{f} },
		}, []gate.Rule{gate.RuleVulnerabilities}},
		"only_fixable admits what has no fix": {change: change{evidence: func(e *gate.Evidence) {
			f := log4j
			f.FixedVersion = ""
			e.Findings = []gate.Finding{f}
		}}},
		"the deny list denies whatever the severity, fix and age, in any case": {change{
			policy: func(p *gate.Policy) {
				p.Vulnerabilities = &gate.VulnerabilityRule{Deny: []string{"cve-2005-2541"}, OnlyFixable: true, Grace: 1e6 * time.Hour}
			},
			evidence: find(tarLow),
		}, []gate.Rule{gate.RuleDenyList}},
		"a finding within its grace passes": {change: change{
			policy: func(p *gate.Policy) { p.Vulnerabilities.Grace = 48 * time.Hour },
			evidence: func(e *gate.Evidence) {
				f := log4j
				f.Published = noon.Add(-47 * time.Hour)
				e.Findings = []gate.Finding{f}
			},
		}},
		"a grace ends exactly on time": {change{
			policy: func(p *gate.Policy) { p.Vulnerabilities.Grace = 48 * time.Hour },
			evidence: func(e *gate.Evidence) {
				f := log4j
				f.Published = noon.Add(-48 * time.Hour)
				e.Findings = []gate.Finding{f}
			},
		}, []gate.Rule{gate.RuleVulnerabilities}},
		"a finding of unknown age has no grace": {change{
			policy:   func(p *gate.Policy) { p.Vulnerabilities.Grace = 1e6 * time.Hour },
			evidence: func(e *gate.Evidence) { f := log4j; f.Published = time.Time{}; e.Findings = []gate.Finding{f} },
		}, []gate.Rule{gate.RuleVulnerabilities}},
		"denies when a gap is not tolerated": {change{evidence: func(e *gate.Evidence) { e.Gaps = []gate.Gap{unreadable} }}, []gate.Rule{gate.RuleGap}},
		"admits when the gap's kind is tolerated": {change: change{
			policy:   func(p *gate.Policy) { p.TolerateGaps = []gate.GapKind{gate.GapUnreadableLayer} },
			evidence: func(e *gate.Evidence) { e.Gaps = []gate.Gap{unreadable} },
		}},
		"denies layers that were not examined": {change{evidence: func(e *gate.Evidence) { e.Examined = false }}, []gate.Rule{gate.RuleUnexamined}},
		"warn mode does not admit what was not examined": {change{
			policy:   func(p *gate.Policy) { p.Mode = gate.Warn },
			evidence: func(e *gate.Evidence) { e.Examined = false },
		}, []gate.Rule{gate.RuleUnexamined}},
		"no waiver admits what was not examined": {change{
			evidence: func(e *gate.Evidence) { e.Examined = false },
			waivers:  []gate.Waiver{{Rule: gate.RuleUnexamined, Digest: digestOf("image"), Until: noon.Add(time.Hour)}},
		}, []gate.Rule{gate.RuleUnexamined}},
		"a policy without content rules asks for no layers": {change: change{
			policy:   func(p *gate.Policy) { p.Vulnerabilities = nil },
			evidence: func(e *gate.Evidence) { e.Examined = false },
		}},
		"an index is judged without layers": {change: change{evidence: func(e *gate.Evidence) {
			e.Examined, e.Manifest = false, oci.Manifest{MediaType: oci.MediaTypeIndex}
		}}},
		"an index needs its signature": {change{evidence: func(e *gate.Evidence) {
			e.Signatures, e.Manifest = nil, oci.Manifest{MediaType: oci.MediaTypeIndex}
		}}, []gate.Rule{gate.RuleSignatures}},
		"proven statements need no signature": {change: change{evidence: func(e *gate.Evidence) {
			e.Signatures, e.Examined, e.OnlyStatements = nil, false, true
		}}},
		"denies more bytes than allowed": {change{evidence: func(e *gate.Evidence) { e.Manifest = imageOf(layerOf("layer", 901)) }}, []gate.Rule{gate.RuleSize}},
		"sizes that overflow are too large": {change{evidence: func(e *gate.Evidence) {
			e.Manifest = imageOf(layerOf("a", 1<<62), layerOf("b", 1<<62), layerOf("c", 1<<62))
		}}, []gate.Rule{gate.RuleSize}},
		"denies layers with urls":   {change{evidence: func(e *gate.Evidence) { e.Manifest.Layers[0].URLs = []string{"https://elsewhere.test/"} }}, []gate.Rule{gate.RuleForeignLayers}},
		"denies a config with urls": {change{evidence: func(e *gate.Evidence) { e.Manifest.Config.URLs = []string{"https://elsewhere.test/"} }}, []gate.Rule{gate.RuleForeignLayers}},
		"denies children with urls": {change{evidence: func(e *gate.Evidence) {
			e.Manifest = oci.Manifest{MediaType: oci.MediaTypeIndex, Manifests: []oci.Descriptor{{Digest: digestOf("child"), URLs: []string{"https://elsewhere.test/"}}}}
		}}, []gate.Rule{gate.RuleForeignLayers}},
		"denies secrets when the policy looks for them": {change{
			policy:   func(p *gate.Policy) { p.Secrets = &gate.SecretRule{} },
			evidence: func(e *gate.Evidence) { e.Inventory.Secrets = []gate.Secret{{Kind: "private key", Path: "key.pem"}} },
		}, []gate.Rule{gate.RuleSecrets}},
		"a policy that does not look for secrets admits them": {change: change{
			evidence: func(e *gate.Evidence) { e.Inventory.Secrets = []gate.Secret{{Kind: "private key", Path: "key.pem"}} },
		}},
		"a policy that looks for secrets alone needs the layers": {change{
			policy:   func(p *gate.Policy) { p.Vulnerabilities, p.Secrets = nil, &gate.SecretRule{} },
			evidence: func(e *gate.Evidence) { e.Examined = false },
		}, []gate.Rule{gate.RuleUnexamined}},
		"one that only warns of secrets does not": {change: change{
			policy:   func(p *gate.Policy) { p.Vulnerabilities, p.Secrets = nil, &gate.SecretRule{Warn: true} },
			evidence: func(e *gate.Evidence) { e.Examined, e.Looked = false, gate.Look{} },
		}},
		"denies what was examined, but not for secrets": {change{
			policy:   func(p *gate.Policy) { p.Secrets = &gate.SecretRule{} },
			evidence: func(e *gate.Evidence) { e.Looked.Secrets = false },
		}, []gate.Rule{gate.RuleUnexamined}},
		"denies what was examined, but not for malware": {change{
			policy:   func(p *gate.Policy) { p.Malware = &gate.MalwareRule{} },
			evidence: func(e *gate.Evidence) { e.Looked.Malware = false },
		}, []gate.Rule{gate.RuleUnexamined}},
		"denies malware when the policy looks for it": {change{
			policy:   func(p *gate.Policy) { p.Malware = &gate.MalwareRule{} },
			evidence: func(e *gate.Evidence) { e.Malware.Found = []gate.Infection{eicar} },
		}, []gate.Rule{gate.RuleMalware}},
		"a policy that does not look for malware admits it": {change: change{
			evidence: func(e *gate.Evidence) { e.Malware.Found = []gate.Infection{eicar} },
		}},
		"denies a file that the malware scanner was not sent": {change{
			policy:   func(p *gate.Policy) { p.Malware = &gate.MalwareRule{} },
			evidence: func(e *gate.Evidence) { e.Malware.Gaps = []gate.Gap{{Kind: gate.GapLimit, Path: "big", Why: "big"}} },
		}, []gate.Rule{gate.RuleGap}},
		"but admits it when such gaps are tolerated": {change: change{
			policy: func(p *gate.Policy) {
				p.Malware, p.TolerateGaps = &gate.MalwareRule{}, []gate.GapKind{gate.GapLimit}
			},
			evidence: func(e *gate.Evidence) { e.Malware.Gaps = []gate.Gap{{Kind: gate.GapLimit, Path: "big", Why: "big"}} },
		}},
		"a waiver sets malware aside": {change: change{
			policy:   func(p *gate.Policy) { p.Malware = &gate.MalwareRule{} },
			evidence: func(e *gate.Evidence) { e.Malware.Found = []gate.Infection{eicar} },
			waivers:  []gate.Waiver{{Rule: gate.RuleMalware, Digest: digestOf("image"), Until: noon.Add(time.Hour)}},
		}},
		"a waiver sets aside the finding it names": {change: change{evidence: find(log4j), waivers: []gate.Waiver{
			{Vulnerability: "CVE-2021-44228", Package: "maven/org.apache.logging.log4j:log4j-core", Repositories: []oci.Pattern{pattern(t, "docker.io/**")}, Until: noon.Add(time.Hour)},
		}}},
		"a waiver for another package does not": {change{evidence: find(log4j), waivers: []gate.Waiver{{Vulnerability: "CVE-2021-44228", Package: "maven/other", Digest: digestOf("image"), Until: noon.Add(time.Hour)}}}, []gate.Rule{gate.RuleVulnerabilities}},
		"a waiver for one of two packages of the same name and version leaves the other": {change{
			evidence: func(e *gate.Evidence) {
				one, other := log4j, log4j
				one.Package.Type, other.Package.Type = "npm", "pypi"
				e.Findings = []gate.Finding{one, other}
			},
			waivers: []gate.Waiver{{Vulnerability: log4j.ID, Package: "npm/" + log4j.Package.Name, Digest: digestOf("image"), Until: noon.Add(time.Hour)}},
		}, []gate.Rule{gate.RuleVulnerabilities}},
		"a waiver for another repository does not":                {change{evidence: find(log4j), waivers: []gate.Waiver{{Vulnerability: "CVE-2021-44228", Repositories: []oci.Pattern{pattern(t, "quay.io/**")}, Until: noon.Add(time.Hour)}}}, []gate.Rule{gate.RuleVulnerabilities}},
		"a waiver for another digest does not":                    {change{evidence: find(log4j), waivers: []gate.Waiver{{Vulnerability: "CVE-2021-44228", Digest: digestOf("other"), Until: noon.Add(time.Hour)}}}, []gate.Rule{gate.RuleVulnerabilities}},
		"a waiver that names nothing does nothing":                {change{evidence: find(log4j), waivers: []gate.Waiver{{Digest: digestOf("image"), Until: noon.Add(time.Hour)}}}, []gate.Rule{gate.RuleVulnerabilities}},
		"a waiver that reaches nobody in particular does nothing": {change{evidence: find(log4j), waivers: []gate.Waiver{{Vulnerability: "CVE-2021-44228", Until: noon.Add(time.Hour)}}}, []gate.Rule{gate.RuleVulnerabilities}},
		"a waiver lapses exactly on time":                         {change{evidence: find(log4j), waivers: []gate.Waiver{{Vulnerability: "CVE-2021-44228", Digest: digestOf("image"), Until: noon}}}, []gate.Rule{gate.RuleVulnerabilities}},
		"a rule can be waived": {change: change{
			evidence: func(e *gate.Evidence) { e.Signatures = nil },
			waivers:  []gate.Waiver{{Rule: gate.RuleSignatures, Digest: digestOf("image"), Until: noon.Add(time.Hour)}},
		}},
		"reasons come in the order of the rules": {change{evidence: func(e *gate.Evidence) {
			e.Gaps, e.Findings, e.Signatures = []gate.Gap{unreadable}, []gate.Finding{log4j}, nil
		}}, []gate.Rule{gate.RuleSignatures, gate.RuleVulnerabilities, gate.RuleGap}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, e := strict(t), clean()
			if tt.policy != nil {
				tt.policy(&p)
			}
			if tt.evidence != nil {
				tt.evidence(&e)
			}
			v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}, Waivers: tt.waivers}, e, noon)
			var got []gate.Rule
			for _, r := range v.Reasons {
				got = append(got, r.Rule)
			}
			if diff := cmp.Diff(got, tt.want); diff != "" || v.Allowed() != (len(tt.want) == 0) {
				t.Errorf("%s, rules got/want:\n%s%s", v.Decision, diff, v.Summary())
			}
		})
	}
}

func TestWarnModeAdmitsAndSaysWhatItWouldDeny(t *testing.T) {
	p, e := strict(t), clean()
	p.Mode, e.Signatures = gate.Warn, nil
	v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon)
	if !v.Allowed() || len(v.Reasons) != 0 || v.WarningSummary() != "strict: unsigned: no signature by release or ci" {
		t.Errorf("got %s, reasons %v, warnings %q", v.Decision, v.Reasons, v.WarningSummary())
	}
}

func TestSecretsThatOnlyWarn(t *testing.T) {
	p, e := strict(t), clean()
	p.Secrets = &gate.SecretRule{Warn: true}
	e.Inventory.Secrets = []gate.Secret{{Kind: "private key", Path: "key.pem", Layer: digestOf("layer")}}
	v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon)
	if !v.Allowed() || len(v.Warnings) != 1 || v.Warnings[0].Rule != gate.RuleSecrets {
		t.Errorf("got %s, warnings %q", v.Decision, v.WarningSummary())
	}
	e.Signatures = nil
	v = gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}}, e, noon)
	if v.Allowed() || len(v.Reasons) != 1 || v.Reasons[0].Rule != gate.RuleSignatures {
		t.Errorf("unsigned besides: got %s (%s)", v.Decision, v.Summary())
	}
}

func TestFirstMatchingPolicyDecides(t *testing.T) {
	lenient := gate.Policy{Name: "lenient", Match: []oci.Pattern{pattern(t, "docker.io/library/*")}}
	e := clean()
	e.Signatures = nil
	for name, tt := range map[string]struct {
		policies []gate.Policy
		want     string
	}{
		"the lenient one first": {[]gate.Policy{lenient, strict(t)}, "lenient allow"},
		"the strict one first":  {[]gate.Policy{strict(t), lenient}, "strict deny"},
	} {
		v := gate.Decide(&gate.PolicySet{Policies: tt.policies}, e, noon)
		if got := v.Policy + " " + v.Decision.String(); got != tt.want {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
}

func TestVerdictLapsesWithWhatItLeansOn(t *testing.T) {
	waiver := gate.Waiver{Vulnerability: log4j.ID, Digest: digestOf("image"), Until: noon.Add(2 * time.Hour)}
	young := log4j
	young.Published = noon.Add(-47 * time.Hour)
	unsigned, expiring := clean(), clean()
	unsigned.Signatures = nil
	expiring.Signatures[0].Until = noon.Add(3 * time.Hour)
	withFinding := func(f gate.Finding) gate.Evidence { e := clean(); e.Findings = []gate.Finding{f}; return e }
	for name, tt := range map[string]struct {
		evidence gate.Evidence
		waivers  []gate.Waiver
		want     time.Duration
	}{
		"nothing":                         {clean(), nil, 24 * time.Hour},
		"a key":                           {expiring, nil, 3 * time.Hour},
		"a waiver that was used":          {withFinding(log4j), []gate.Waiver{waiver}, 2 * time.Hour},
		"a waiver that was not":           {clean(), []gate.Waiver{waiver}, 24 * time.Hour},
		"a grace":                         {withFinding(young), nil, time.Hour},
		"a signature that may yet arrive": {unsigned, nil, time.Minute},
	} {
		p := strict(t)
		p.Vulnerabilities.Grace = 48 * time.Hour
		v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{p}, Waivers: tt.waivers}, tt.evidence, noon)
		if got := v.Until.Sub(noon); got != tt.want {
			t.Errorf("%s: lapses after %s, want %s", name, got, tt.want)
		}
	}
}

// randomEvidence draws evidence over few enough values that waivers and rules meet.
func randomEvidence(r *rand.Rand) gate.Evidence {
	e := clean()
	e.Examined = r.IntN(8) > 0
	e.Signatures = nil
	for _, a := range []string{"release", "ci", "stranger"} {
		if r.IntN(2) == 0 {
			e.Signatures = append(e.Signatures, signedBy(a))
		}
	}
	for range r.IntN(4) {
		e.Findings = append(e.Findings, randomFinding(r))
	}
	for range r.IntN(2) * r.IntN(2) {
		e.Inventory.Secrets = append(e.Inventory.Secrets, gate.Secret{Kind: "private key", Path: []string{"a", "b"}[r.IntN(2)]})
	}
	for range r.IntN(2) * r.IntN(2) {
		e.Malware.Found = append(e.Malware.Found, gate.Infection{Signature: []string{"A", "B"}[r.IntN(2)], Path: "a"})
	}
	e.Looked = gate.Look{Secrets: r.IntN(8) > 0, Malware: r.IntN(8) > 0}
	for range r.IntN(3) {
		e.Inventory.Packages = append(e.Inventory.Packages, randomPackage(r))
	}
	if r.IntN(4) == 0 {
		e.Config = &gate.ImageConfig{User: []string{"", "0", "1000"}[r.IntN(3)], Labels: map[string]string{"team": []string{"shop", "bank"}[r.IntN(2)]}}
	}
	if r.IntN(16) == 0 {
		e.ConfigExamined, e.Config = false, nil
	}
	e.Inventory.OS.ID, e.EndOfLife = []string{"debian", ""}[r.IntN(2)], noon.Add(time.Duration(r.IntN(3)-1)*time.Hour)
	for range r.IntN(2) {
		e.Gaps = append(e.Gaps, gate.Gap{Kind: gate.GapKinds()[r.IntN(len(gate.GapKinds()))], Why: "x"})
	}
	return e
}

func randomPackage(r *rand.Rand) gate.Found {
	licenses := [][]string{nil, {"MIT"}, {"AGPL-3.0-only"}, {"MIT OR AGPL-3.0-only"}}
	return gate.Found{Path: "a", Package: gate.Package{
		Type: []string{"deb", "npm"}[r.IntN(2)], Name: []string{"tar", "zlib"}[r.IntN(2)], Version: "1", Licenses: licenses[r.IntN(4)],
	}}
}

func randomFinding(r *rand.Rand) gate.Finding {
	f := gate.Finding{
		ID: []string{"CVE-1", "CVE-2", "CVE-3"}[r.IntN(3)], Severity: gate.Severity(r.IntN(5)), Path: []string{"a", "b"}[r.IntN(2)],
		Package: gate.Package{Type: []string{"deb", "npm", "pypi"}[r.IntN(3)], Name: []string{"tar", "zlib"}[r.IntN(2)], Version: "1"},
	}
	if r.IntN(2) == 0 {
		f.FixedVersion = "2"
	}
	return f
}

func randomPolicies(t testing.TB, r *rand.Rand) *gate.PolicySet {
	p := strict(t)
	p.Mode = gate.Mode(r.IntN(2))
	p.Vulnerabilities = &gate.VulnerabilityRule{DenyAt: ptr(gate.Severity(r.IntN(4) + 1)), OnlyFixable: r.IntN(2) == 0, Deny: []string{"CVE-3"}[:r.IntN(2)]}
	p.TolerateGaps = gate.GapKinds()[:r.IntN(len(gate.GapKinds()))]
	if r.IntN(2) == 0 {
		p.Secrets = &gate.SecretRule{Warn: r.IntN(2) == 0}
	}
	if r.IntN(2) == 0 {
		p.Malware = &gate.MalwareRule{Warn: r.IntN(2) == 0}
	}
	randomInputs(r, &p)
	set := &gate.PolicySet{Policies: []gate.Policy{p}}
	for range r.IntN(3) {
		set.Waivers = append(set.Waivers, randomWaiver(t, r, "CVE-1", "CVE-2"))
	}
	return set
}

// randomInputs has p ask, now and then, for what an image is.
func randomInputs(r *rand.Rand, p *gate.Policy) {
	seldom := func() bool { return r.IntN(6) == 0 }
	if seldom() {
		p.DenyPackages = []gate.PackagePattern{{Type: "*", Name: "zl*", Version: "*"}}
	}
	if seldom() {
		p.Licenses = &gate.LicenseRule{Deny: []string{"AGPL-3.0-or-later"}, DenyUnknown: r.IntN(2) == 0}
	}
	if seldom() {
		p.OS = &gate.OSRule{DenyEndOfLife: r.IntN(2) == 0, Allow: []gate.OSPattern{{ID: "debian", Version: "*"}}[:r.IntN(2)]}
	}
	if seldom() {
		p.Image.RequireLabels = []gate.LabelPattern{{Name: "team", Value: "shop"}}
	}
	p.Image.DenyRootUser, p.Image.UnsafeHostileConfig = seldom(), r.IntN(2) == 0
}

func randomWaiver(t testing.TB, r *rand.Rand, ids ...string) gate.Waiver {
	w := gate.Waiver{Until: noon.Add(time.Duration(1+r.IntN(3)) * time.Hour), By: "alice", Reason: "x"}
	if r.IntN(2) == 0 {
		w.Digest = digestOf("image")
	} else {
		w.Repositories = []oci.Pattern{pattern(t, []string{"docker.io/**", "quay.io/**"}[r.IntN(2)])}
	}
	w.Vulnerability = ids[r.IntN(len(ids))]
	if r.IntN(2) == 0 {
		w.Package = []string{"deb/tar", "npm/zlib", "pypi/zlib"}[r.IntN(3)]
	}
	return w
}

const draws = 3000

// laws are what must hold of Decide for any policies and evidence. Each changes the evidence or the policies a little and says what
// may follow. Evidence is never modified in place.
var laws = []struct {
	name  string
	holds func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict)
}{
	{"adding a finding never admits", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		e.Findings = append(slices.Clone(e.Findings), randomFinding(r))
		mustStayDenied(t, v, gate.Decide(set, e, noon))
	}},
	{"adding a gap never admits", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		e.Gaps = append(slices.Clone(e.Gaps), gate.Gap{Kind: gate.GapKinds()[r.IntN(len(gate.GapKinds()))], Why: "y"})
		mustStayDenied(t, v, gate.Decide(set, e, noon))
	}},
	{"adding a secret never admits", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		e.Inventory.Secrets = append(slices.Clone(e.Inventory.Secrets), gate.Secret{Kind: "private key", Path: "another"})
		mustStayDenied(t, v, gate.Decide(set, e, noon))
	}},
	{"adding malware never admits", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		e.Malware.Found = append(slices.Clone(e.Malware.Found), gate.Infection{Signature: "C", Path: "another"})
		mustStayDenied(t, v, gate.Decide(set, e, noon))
	}},
	{"looking for less never admits", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		e.Looked = gate.Look{}
		mustStayDenied(t, v, gate.Decide(set, e, noon))
	}},
	{"adding a package never admits", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		e.Inventory.Packages = append(slices.Clone(e.Inventory.Packages), randomPackage(r))
		mustStayDenied(t, v, gate.Decide(set, e, noon))
	}},
	{"a licence to choose instead never denies", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		before := e
		before.Inventory.Packages = append(slices.Clone(e.Inventory.Packages), gate.Found{Package: gate.Package{Type: "deb", Name: "x", Licenses: []string{"AGPL-3.0-only"}}})
		e.Inventory.Packages = append(slices.Clone(e.Inventory.Packages), gate.Found{Package: gate.Package{Type: "deb", Name: "x", Licenses: []string{"AGPL-3.0-only OR MIT"}}})
		mustStayDenied(t, gate.Decide(set, e, noon), gate.Decide(set, before, noon))
	}},
	{"a config that says nothing never admits", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		for _, c := range []*gate.ImageConfig{nil, {}} {
			if e.Config = c; c == nil && e.ConfigExamined {
				e.Gaps = append(slices.Clone(e.Gaps), gate.Gap{Kind: gate.GapConfig, Why: "it cannot be read"})
			}
			if !e.ConfigExamined {
				e.Config = nil
			}
			mustStayDenied(t, v, gate.Decide(set, e, noon))
		}
	}},
	{"what is waived as a rule leaves the reasons of the others", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		rules := gate.WaivableRules()
		rule := rules[r.IntN(len(rules))]
		more := *set
		more.Waivers = append(slices.Clone(set.Waivers), gate.Waiver{Rule: rule, Digest: digestOf("image"), Until: noon.Add(time.Hour)})
		others := func(v gate.Verdict) []gate.Reason {
			return slices.DeleteFunc(slices.Concat(v.Reasons, v.Warnings), func(r gate.Reason) bool { return r.Rule == rule || r.Rule == gate.RuleUnexamined })
		}
		if diff := cmp.Diff(others(gate.Decide(&more, e, noon)), others(v), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("waiving %s, other reasons, got/want:\n%s", rule, diff)
		}
	}},
	{"dropping a signature never admits", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		if len(e.Signatures) > 0 {
			e.Signatures = e.Signatures[1:]
		}
		mustStayDenied(t, v, gate.Decide(set, e, noon))
	}},
	{"order does not matter", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		e.Findings, e.Gaps, e.Signatures = slices.Clone(e.Findings), slices.Clone(e.Gaps), slices.Clone(e.Signatures)
		r.Shuffle(len(e.Findings), func(i, j int) { e.Findings[i], e.Findings[j] = e.Findings[j], e.Findings[i] })
		r.Shuffle(len(e.Gaps), func(i, j int) { e.Gaps[i], e.Gaps[j] = e.Gaps[j], e.Gaps[i] })
		r.Shuffle(len(e.Signatures), func(i, j int) { e.Signatures[i], e.Signatures[j] = e.Signatures[j], e.Signatures[i] })
		again := gate.Decide(set, e, noon)
		again.Findings, again.Signatures = v.Findings, v.Signatures // what it was made from is passed on as it is
		if diff := cmp.Diff(again, v); diff != "" {
			t.Errorf("the verdict on shuffled evidence, got/want:\n%s", diff)
		}
	}},
	{"a waiver changes only the findings it names", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		w := randomWaiver(t, r, "CVE-3")
		more := *set
		more.Waivers = append(slices.Clone(set.Waivers), w)
		named := func(reason gate.Reason) bool {
			f := reason.Finding
			return f != nil && f.ID == w.Vulnerability && (w.Package == "" || w.Package == f.Package.Type+"/"+f.Package.Name)
		}
		others := func(v gate.Verdict) []gate.Reason { // that the config is unexamined is told where nothing else is
			return slices.DeleteFunc(slices.Concat(v.Reasons, v.Warnings), func(r gate.Reason) bool { return named(r) || r.Rule == gate.RuleUnexamined })
		}
		after := gate.Decide(&more, e, noon)
		if diff := cmp.Diff(others(after), others(v), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("other reasons, got/want:\n%s", diff)
		}
		if rest := slices.DeleteFunc(slices.Clone(v.Reasons), named); after.Allowed() && len(rest) > 0 {
			t.Errorf("admitted, though it was denied for %v too", rest)
		}
	}},
	{"a waiver of what a rule says changes nothing else by that rule", func(t *testing.T, r *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		standing := slices.Concat(v.Reasons, v.Warnings)
		if len(standing) == 0 {
			return
		}
		about := standing[r.IntN(len(standing))]
		more := *set
		more.Waivers = append(slices.Clone(set.Waivers), gate.Waiver{
			Rule: about.Rule, Says: about.Message, Digest: e.Candidate.Digest, Until: noon.Add(time.Hour), By: "alice", Reason: "x",
		})
		after := gate.Decide(&more, e, noon)
		named := func(reason gate.Reason) bool { return reason.Rule == about.Rule && reason.Message == about.Message }
		got, want := slices.Concat(after.Reasons, after.Warnings), slices.Concat(v.Reasons, v.Warnings)
		if about.Rule != gate.RuleUnexamined { // that something was not looked into is said only where nothing else denies
			unexamined := func(reason gate.Reason) bool { return reason.Rule == gate.RuleUnexamined }
			got, want = slices.DeleteFunc(got, unexamined), slices.DeleteFunc(slices.DeleteFunc(want, named), unexamined)
		}
		if diff := cmp.Diff(got, want, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("waived %+v, got/want:\n%s", about, diff)
		}
	}},
	{"it is pure", func(t *testing.T, _ *rand.Rand, set *gate.PolicySet, e gate.Evidence, v gate.Verdict) {
		if diff := cmp.Diff(gate.Decide(set, e, noon), v); diff != "" {
			t.Errorf("a second call, got/want:\n%s", diff)
		}
	}},
	{"a denial has a reason and an admission none", func(t *testing.T, _ *rand.Rand, _ *gate.PolicySet, _ gate.Evidence, v gate.Verdict) {
		if v.Allowed() == (len(v.Reasons) > 0) {
			t.Errorf("%s with reasons %v", v.Decision, v.Reasons)
		}
	}},
}

func TestLawsOfDecide(t *testing.T) {
	for i, law := range laws {
		t.Run(law.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			allowed := 0
			for range draws {
				set, e := randomPolicies(t, r), randomEvidence(r)
				v := gate.Decide(set, e, noon)
				if v.Allowed() {
					allowed++
				}
				if law.holds(t, r, set, e, v); t.Failed() {
					return
				}
			}
			if allowed < draws/20 || allowed > draws*19/20 {
				t.Errorf("%d of %d draws are admitted: the law was hardly tried", allowed, draws)
			}
		})
	}
}

func mustStayDenied(t *testing.T, before, after gate.Verdict) {
	t.Helper()
	if !before.Allowed() && after.Allowed() {
		t.Errorf("denied for %q, then admitted", before.Summary())
	}
}

func TestZeroValuesDeny(t *testing.T) {
	var v gate.Verdict
	var d gate.Decision
	if v.Allowed() || d == gate.Allow || gate.Decide(&gate.PolicySet{}, gate.Evidence{}, noon).Allowed() {
		t.Error("a zero value allows")
	}
}
