package gate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/oci"
)

const wholeConfig = `{
  "created": "2026-01-02T03:04:05.6+01:00", "os": "linux", "architecture": "arm64", "variant": "v8", "author": "somebody",
  "config": {
    "User": "1000:1000", "Env": ["PATH=/bin", "A=b=c"], "Entrypoint": ["/app"], "Cmd": "serve", "WorkingDir": "/srv",
    "Volumes": {"/b": {}, "/a": {}}, "ExposedPorts": {"80/tcp": {}}, "Labels": {"x": "y", "X": "Y"}, "StopSignal": "SIGINT", "Healthcheck": {"Test": ["NONE"]}
  },
  "rootfs": {"type": "layers", "diff_ids": ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},
  "history": [{"created": "2025-01-01T00:00:00Z", "created_by": "ADD rootfs", "comment": "base"}, {"created": "yesterday", "empty_layer": true}]
}`

func TestParseConfig(t *testing.T) {
	got, err := parseConfig([]byte(wholeConfig))
	if err != nil {
		t.Fatal(err)
	}
	want := ImageConfig{
		Created: time.Date(2026, 1, 2, 2, 4, 5, 6e8, time.UTC), OS: "linux", Architecture: "arm64", Variant: "v8", User: "1000:1000",
		Env: []string{"PATH=/bin", "A=b=c"}, Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, WorkingDir: "/srv",
		Volumes: []string{"/a", "/b"}, ExposedPorts: []string{"80/tcp"}, Labels: map[string]string{"x": "y", "X": "Y"}, StopSignal: "SIGINT",
		History: []BuildStep{{time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), "ADD rootfs", "base"}, {}},
		DiffIDs: []oci.Digest{"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got -, want +:\n%s", diff)
	}
	for _, nothing := range []string{`{}`, `{"config":null,"history":null,"rootfs":null}`, `{"config":{"Labels":null,"Cmd":null}}`} {
		got, err := parseConfig([]byte(nothing))
		if diff := cmp.Diff(got, ImageConfig{}, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%s: %v, got -, want +:\n%s", nothing, err, diff)
		}
	}
}

// TestConfigsTwoReadersReadDifferently: of what is written twice, or in another case, one runtime takes the first, another the last.
func TestConfigsTwoReadersReadDifferently(t *testing.T) {
	ports := make([]string, maxConfigEntries+1)
	for i := range ports {
		ports[i] = fmt.Sprintf(`"%d":{}`, i)
	}
	for name, tt := range map[string]struct{ config, want string }{
		"not JSON":                    {"\x1f\x8b", "not JSON"},
		"a list":                      {`[]`, "not JSON"},
		"more than one":               {`{}{}`, "not JSON"},
		"a user twice":                {`{"config":{"User":"1000","User":"root"}}`, "twice or in another case"},
		"a user in lower case":        {`{"config":{"user":"1000"}}`, "twice or in another case"},
		"a config twice":              {`{"config":{"User":"1000"},"config":{}}`, "twice or in another case"},
		"a config in another case":    {`{"Config":{"User":"1000"}}`, "twice or in another case"},
		"a letter that folds into an": {`{"config":{"U\u017fer":"1000"}}`, "twice or in another case"},
		"a config that is a list":     {`{"config":[]}`, "not JSON"},
		"a user that is a number":     {`{"config":{"User":0}}`, "not JSON"},
		"more ports than there are":   {`{"config":{"ExposedPorts":{` + strings.Join(ports, ",") + `}}}`, "at most 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := parseConfig([]byte(tt.config)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %+v, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestSecretsInConfigs(t *testing.T) {
	c := ImageConfig{
		Env: []string{"A=b", "T=token"}, Labels: map[string]string{"x": "token", "y": "z"}, Cmd: []string{"--password", "token"},
		History: []BuildStep{{CreatedBy: "RUN x"}, {CreatedBy: "|1 T=token RUN y"}, {Comment: "token"}},
	}
	got := secretsIn(c, func(text []byte) []string {
		if strings.Contains(string(text), "token") {
			return []string{"k1", "k2"}
		}
		return nil
	})
	var want []Secret
	for _, place := range []string{`the environment variable "T"`, `the label "x"`, "the command", "step 2 of the history", "step 3 of the history"} {
		want = append(want, Secret{Kind: "k1", Path: place}, Secret{Kind: "k2", Path: place})
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got -, want +:\n%s", diff)
	}
	many := secretsIn(ImageConfig{Env: slices.Repeat([]string{"x"}, 1000)}, func([]byte) []string { return []string{"k"} })
	if len(many) != maxConfigSecrets {
		t.Errorf("got %d secrets of many, want %d", len(many), maxConfigSecrets)
	}
}

// FuzzConfig holds any config against what the gate rests on: what is read has bounds, and what a reader that folds cases takes for the
// user is what we take for it.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(wholeConfig))
	f.Add([]byte(`{"config":{"User":"1000","\u0055ser":"root"}}`))
	f.Add([]byte(`{"config":{"Entrypoint":"/proc/self/exe","Env":["A","=b"],"Volumes":{"":null}}}`))
	p := Policy{Name: "p", Image: ImageRule{DenyRootUser: true, RequireLabels: []LabelPattern{{"x", "*"}}, MaxBaseAge: time.Hour}}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parseConfig(body)
		if err != nil {
			return
		}
		if len(c.Env) > maxConfigEntries || len(c.History) > maxConfigEntries || !slices.IsSorted(c.Volumes) {
			t.Errorf("out of bounds or order: %+v", c)
		}
		e := Evidence{Config: &c, ConfigExamined: true}
		v := Verdict{}
		for _, r := range slices.Concat(hostileReasons(p, e), configReasons(p, e, time.Unix(1e9, 0), &v)) {
			if r.Rule == "" || r.Message == "" || len(r.Message) > 1000 {
				t.Errorf("a reason %+v", r)
			}
		}
	})
}
