package gate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// condition is an expression as a function.
type condition struct {
	reads gate.Reads
	holds func(gate.Subject) (bool, error)
}

func (c condition) Holds(about gate.Subject) (bool, error) { return c.holds(about) }
func (c condition) Reads() gate.Reads                      { return c.reads }
func (condition) String() string                           { return "a condition" }

// always is an expression that holds of everything it is asked about.
func always(reads gate.Reads) gate.ExpressionRule {
	return gate.ExpressionRule{Name: "x", Message: "because", DenyIf: condition{reads, func(gate.Subject) (bool, error) { return true, nil }}}
}

func withExpressions(t *testing.T, all ...gate.ExpressionRule) gate.Policy {
	return gate.Policy{Name: "p", Match: []oci.Pattern{pattern(t, "**")}, Expressions: all}
}

func TestExpressionsDeny(t *testing.T) {
	index := gate.Evidence{Candidate: clean().Candidate, Manifest: oci.Manifest{MediaType: oci.MediaTypeIndex}}
	statement, unread, chart, unreadable := clean(), clean(), clean(), clean()
	statement.OnlyStatements, unread.Examined, unreadable.Config = true, false, nil
	chart.Config, chart.Manifest.Config.MediaType = nil, "application/vnd.cncf.helm.config.v1+json"
	failing := gate.ExpressionRule{Name: "x", DenyIf: condition{holds: func(gate.Subject) (bool, error) { return false, errors.New("cannot be told") }}}
	silent := always(gate.Reads{})
	silent.Message = ""
	for name, tt := range map[string]struct {
		rule     gate.ExpressionRule
		evidence gate.Evidence
		want     []string
	}{
		"what they are true of":                        {always(gate.Reads{}), clean(), []string{"cel: x: because"}},
		"by their name if they say nothing":            {silent, clean(), []string{"cel: denied by x"}},
		"what they cannot be told of":                  {failing, clean(), []string{"cel: x: cannot be told"}},
		"an index, if they are about any manifest":     {always(gate.Reads{}), index, []string{"cel: x: because"}},
		"and not if they are about images":             {always(gate.Reads{Image: true}), index, nil},
		"or about layers":                              {always(gate.Reads{Findings: true}), index, nil},
		"no chart, if they are about images":           {always(gate.Reads{Image: true}), chart, nil},
		"a chart, if they are about layers":            {always(gate.Reads{Layers: true}), chart, []string{"cel: x: because"}},
		"no signature":                                 {always(gate.Reads{}), statement, nil},
		"nothing by tag":                               {always(gate.Reads{Tag: true}), clean(), nil},
		"an image whose config could not be read":      {always(gate.Reads{Image: true}), unreadable, []string{"cel: x: cannot be told, for its config could not be read"}},
		"what was not looked into, for another reason": {always(gate.Reads{Layers: true}), unread, []string{"unexamined: its layers have not been examined"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := gate.Decide(&gate.PolicySet{Policies: []gate.Policy{withExpressions(t, tt.rule)}}, tt.evidence, noon)
			if diff := cmp.Diff(told(v.Reasons), tt.want); diff != "" || v.Allowed() != (len(tt.want) == 0) {
				t.Errorf("%s, got -, want +:\n%s", v.Decision, diff)
			}
		})
	}
}

func TestDecideTag(t *testing.T) {
	c := gate.Candidate{Repository: nginx, Digest: digestOf("image")}
	latest := gate.ExpressionRule{Name: "no-latest", Message: "pin a version", DenyIf: condition{gate.Reads{Tag: true}, func(about gate.Subject) (bool, error) {
		return about.Tag == "latest" && about.Candidate == c, nil
	}}}
	waived := gate.Waiver{Rule: gate.RuleCEL, Repositories: []oci.Pattern{pattern(t, "docker.io/**")}, Until: noon.Add(time.Hour)}
	warning := withExpressions(t, latest)
	warning.Mode = gate.Warn
	for name, tt := range map[string]struct {
		policies []gate.Policy
		waivers  []gate.Waiver
		tag      string
		want     string
	}{
		"another tag":                        {[]gate.Policy{withExpressions(t, latest)}, nil, "1.27", ""},
		"the tag":                            {[]gate.Policy{withExpressions(t, latest)}, nil, "latest", "p: no-latest: pin a version"},
		"the tag, waived":                    {[]gate.Policy{withExpressions(t, latest)}, []gate.Waiver{waived}, "latest", ""},
		"the tag, warned of":                 {[]gate.Policy{warning}, nil, "latest", "warning p: no-latest: pin a version"},
		"an expression about something else": {[]gate.Policy{withExpressions(t, always(gate.Reads{}))}, nil, "latest", ""},
		"no policy":                          {nil, nil, "1.27", "no policy matches docker.io/library/nginx"},
	} {
		t.Run(name, func(t *testing.T) {
			v := gate.DecideTag(&gate.PolicySet{Policies: tt.policies, Waivers: tt.waivers}, c, tt.tag, noon)
			got := v.Summary()
			if w := v.WarningSummary(); w != "" {
				got += "warning " + w
			}
			if got != tt.want || v.Allowed() != (v.Summary() == "") || v.Candidate() != c {
				t.Errorf("%s: got %q, want %q", v.Decision, got, tt.want)
			}
		})
	}
}

func TestEvidenceOnDemand(t *testing.T) {
	secretive := func(w *world) gate.Candidate {
		config := w.blob(oci.MediaTypeConfig, `{"config":{"Env":["GH=token"]}}`)
		c := w.manifest(nginx, map[string]any{"mediaType": oci.MediaTypeImage, "config": config, "layers": []oci.Descriptor{}})
		w.sign(c, "release")
		return c
	}
	t.Run("secrets in the config deny", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].Secrets = &gate.SecretRule{}
		v, err := w.gate().Judge(t.Context(), secretive(w))
		if err != nil || v.Allowed() || v.Summary() != `strict: a secret, token, in the environment variable "GH" of the config` {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
	})
	t.Run("a refusal that is certain and dropped reads no config", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].OnFail, w.set.Policies[0].Vulnerabilities = gate.Block, nil
		c := secretive(w)
		w.signatures = map[gate.Candidate]gate.SignatureEvidence{}
		v, err := w.gate().Judge(t.Context(), c)
		if err != nil || v.Allowed() || w.count("open") != 0 || v.Summary() != "strict: unsigned: no signature by release or ci" {
			t.Errorf("got %s (%s), %v, calls %q", v.Decision, v.Summary(), err, w.calls)
		}
	})
	t.Run("one that is certain and kept reads the config and no layer", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies[0].Vulnerabilities = nil
		c := w.image(w.blob(gzipLayer, "layer"))
		w.signatures = map[gate.Candidate]gate.SignatureEvidence{}
		v, err := w.gate().Judge(t.Context(), c)
		if err != nil || v.Allowed() || !v.Complete || w.count("open "+oci.MediaTypeConfig) != 1 || w.count("open "+gzipLayer) != 0 {
			t.Errorf("got %s (%s), %v, calls %q", v.Decision, v.Summary(), err, w.calls)
		}
	})
	t.Run("the end of life is asked for the image's distribution", func(t *testing.T) {
		w := newWorld(t)
		w.set.Policies = []gate.Policy{{Name: "p", Match: []oci.Pattern{pattern(t, "**")}, OS: &gate.OSRule{DenyEndOfLife: true}}}
		layer := w.blob(gzipLayer, "layer")
		w.scanned[layer.Digest] = gate.LayerInventory{Compression: gate.CompressionGzip, DiffID: diffOf(layer.Digest), OSRelease: map[string]gate.OS{"etc/os-release": {ID: "debian", Version: "7"}}}
		w.ends = map[string]time.Time{"debian": noon.Add(-time.Hour)}
		v, err := w.gate().Judge(t.Context(), w.image(layer))
		if err != nil || v.Summary() != "p: debian 7 is no longer mended since 2026-11-22" || w.count("match") != 0 {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
	})
	t.Run("an expression over findings has advisories matched", func(t *testing.T) {
		w := newWorld(t)
		found := gate.ExpressionRule{Name: "x", DenyIf: condition{gate.Reads{Findings: true}, func(about gate.Subject) (bool, error) { return len(about.Findings) > 0, nil }}}
		w.set.Policies = []gate.Policy{withExpressions(t, found)}
		w.findings = []gate.Finding{log4j}
		layer := w.blob(gzipLayer, "layer")
		w.packages[layer.Digest] = []gate.Package{log4j.Package}
		v, err := w.gate().Judge(t.Context(), w.image(layer))
		if err != nil || v.Summary() != "p: denied by x" {
			t.Errorf("got %s (%s), %v", v.Decision, v.Summary(), err)
		}
	})
	t.Run("a config that cannot be read is a gap, also where no layer is read", func(t *testing.T) {
		for name, tt := range map[string]struct {
			config   oci.Descriptor
			tolerate bool
			want     string
		}{
			"not JSON":                      {config: oci.Descriptor{MediaType: oci.MediaTypeConfig}, want: "strict: config: the config is not JSON that runtimes can read"},
			"tolerated":                     {config: oci.Descriptor{MediaType: oci.MediaTypeConfig}, tolerate: true},
			"too large":                     {config: oci.Descriptor{MediaType: oci.MediaTypeConfig, Size: 8<<20 + 1}, want: "strict: config: the config is 8388609 bytes, at most 8388608 are read"},
			"of something that is no image": {config: oci.Descriptor{MediaType: "application/vnd.cncf.helm.config.v1+json"}},
			"of something Docker would try": {config: oci.Descriptor{MediaType: "text/html"}},
		} {
			w := newWorld(t)
			w.set.Policies[0].Vulnerabilities, w.set.Policies[0].Image.MaxBytes = nil, 0
			if tt.tolerate {
				w.set.Policies[0].TolerateGaps = []gate.GapKind{gate.GapConfig}
			}
			desc := w.blob(tt.config.MediaType, "<html>")
			desc.Size = max(desc.Size, tt.config.Size)
			c := w.manifest(nginx, map[string]any{"mediaType": oci.MediaTypeImage, "config": desc, "layers": []oci.Descriptor{}})
			w.sign(c, "release")
			v, err := w.gate().Judge(t.Context(), c)
			if err != nil || v.Summary() != tt.want || v.Allowed() != (tt.want == "") {
				t.Errorf("%s: got %s (%s), %v", name, v.Decision, v.Summary(), err)
			}
		}
	})
}
