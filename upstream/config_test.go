package upstream

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfigProblems(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(junk, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		config Config
		want   []string
	}{
		"no host":               {Config{}, []string{"host:", "url:"}},
		"host in upper case":    {Config{Host: "Docker.io"}, []string{"host:"}},
		"host with a path":      {Config{Host: "docker.io/x"}, []string{"host:", "url:"}},
		"url without a scheme":  {Config{Host: "a.test", URL: "a.test"}, []string{"url:"}},
		"url of another scheme": {Config{Host: "a.test", URL: "ftp://a.test"}, []string{"url:", "neither https nor http"}},
		"url with a path":       {Config{Host: "a.test", URL: "https://a.test/v2"}, []string{"url:", "has a path"}},
		"url with credentials":  {Config{Host: "a.test", URL: "https://u:secret@a.test"}, []string{"url:", "belong in a file"}},
		"credentials and no scheme": {
			Config{Host: "a.test", URL: "u:secret@a.test"}, []string{"url:", `"a.test" is not a URL`},
		},
		"credentials that are no text of a URL": {
			Config{Host: "a.test", Mirrors: []string{"https://u:sec%zzsecret@m.test"}}, []string{"mirrors:", `"m.test" is not a URL`},
		},
		"credentials over plain http": {Config{Host: "a.test", URL: "http://u:secret@a.test"}, []string{"url:", "belong in a file"}},
		"credentials of another scheme": {
			Config{Host: "a.test", Realms: []string{"ftp://u:secret@a.test"}}, []string{"realms:", "belong in a file"},
		},
		"url with a query":        {Config{Host: "a.test", URL: "https://a.test?x"}, []string{"url:"}},
		"plain http":              {Config{Host: "a.test", URL: "http://a.test"}, []string{"url:", "unsafe_private_addresses"}},
		"mirror over plain http":  {Config{Host: "a.test", Mirrors: []string{"http://m.test"}}, []string{"mirrors:"}},
		"realm over plain http":   {Config{Host: "a.test", Realms: []string{"http://auth.test"}}, []string{"realms:"}},
		"realm with an odd path":  {Config{Host: "a.test", Realms: []string{"https://auth.test/a/../b"}}, []string{"realms:"}},
		"realm with encoded path": {Config{Host: "a.test", Realms: []string{"https://auth.test/a%2fb"}}, []string{"realms:"}},
		"pattern":                 {Config{Host: "a.test", Allow: []string{"a**"}, Deny: []string{""}}, []string{"allow:", "deny:"}},
		"username alone":          {Config{Host: "a.test", Username: "u"}, []string{"credentials:"}},
		"password alone":          {Config{Host: "a.test", PasswordFile: "f"}, []string{"credentials:"}},
		"credentials over http":   {Config{Host: "a.test", URL: "http://a.test", UnsafePrivateAddresses: true, Username: "u", PasswordFile: "f"}, []string{"unencrypted"}},
		"credentials to http realm": {
			Config{Host: "a.test", Realms: []string{"http://auth.test"}, UnsafePrivateAddresses: true, Username: "u", PasswordFile: "f"},
			[]string{"realms:", "unencrypted"},
		},
		"two kinds of credentials": {
			Config{Host: "a.test", Username: "u", PasswordFile: "f", Credentials: &vault{}}, []string{"credentials:", "exclude"},
		},
		"fetched credentials over http": {
			Config{Host: "a.test", URL: "http://a.test", UnsafePrivateAddresses: true, Credentials: &vault{}}, []string{"unencrypted"},
		},
		"fetched credentials to http realm": {
			Config{Host: "a.test", Realms: []string{"http://auth.test"}, UnsafePrivateAddresses: true, Credentials: &vault{}},
			[]string{"realms:", "unencrypted"},
		},
		"negative times":           {Config{Host: "a.test", TagTTL: -1, StaleTagsFor: -1}, []string{"tag_ttl:", "stale_tags_for:"}},
		"malformed signatures":     {Config{Host: "a.test", SignaturesIn: "A/B"}, []string{"signatures_in:"}},
		"signatures elsewhere":     {Config{Host: "a.test", SignaturesIn: "b.test/sigs"}, []string{"signatures_in", "not of a configured upstream"}},
		"missing ca file":          {Config{Host: "a.test", CAFile: filepath.Join(t.TempDir(), "none")}, []string{"ca_file:"}},
		"ca file without any cert": {Config{Host: "a.test", CAFile: junk}, []string{"ca_file:", "no PEM certificate"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			rs, err := New([]Config{tc.config}, Options{})
			if err == nil || rs != nil {
				t.Fatalf("got %v, %v, want an error alone", rs, err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("got %q, which repeats a password", err)
			}
		})
	}
}

func TestConfigProblemsAreToldAtOnce(t *testing.T) {
	_, err := New([]Config{
		{Host: "a.test", URL: "ftp://a.test"},
		{Host: "b.test"},
		{Host: "b.test"},
		{Host: "C"},
	}, Options{})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"upstreams[0] a.test", "upstreams[2] b.test: the host is configured twice", "upstreams[3] C"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
}

func TestConfigAccepts(t *testing.T) {
	tests := map[string]struct {
		config  Config
		wantURL string
	}{
		"a host alone":              {Config{Host: "registry.example:5000"}, "https://registry.example:5000"},
		"a well-known host":         {Config{Host: "docker.io"}, "https://registry-1.docker.io"},
		"a url of its own":          {Config{Host: "docker.io", URL: "https://hub.internal/"}, "https://hub.internal"},
		"a host in upper case":      {Config{Host: "a.test", URL: "https://A.Test"}, "https://a.test"},
		"plain http on loopback":    {Config{Host: "a.test", URL: "http://127.0.0.1:5000"}, "http://127.0.0.1:5000"},
		"plain http by name":        {Config{Host: "a.test", URL: "http://localhost:5000"}, "http://localhost:5000"},
		"plain http when unsafe":    {Config{Host: "a.test", URL: "http://a.test", UnsafePrivateAddresses: true}, "http://a.test"},
		"credentials over https":    {Config{Host: "a.test", Username: "u", PasswordFile: "f"}, "https://a.test"},
		"credentials over loopback": {Config{Host: "a.test", URL: "http://[::1]:5", Username: "u", PasswordFile: "f"}, "http://[::1]:5"},
		"a realm with a path":       {Config{Host: "a.test", Realms: []string{"https://auth.test/token/"}, TagTTL: time.Hour}, "https://a.test"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			rs := open(t, Options{}, tc.config)
			if got := rs.byHost[tc.config.Host].url.String(); got != tc.wantURL {
				t.Errorf("got %s, want %s", got, tc.wantURL)
			}
		})
	}
}

// Realms of the public registry are no business of whoever set another URL for its name.
func TestWellKnownRealmsBelongToTheWellKnownURL(t *testing.T) {
	if got := (Config{Host: "docker.io", URL: "https://hub.internal"}).withDefaults().Realms; got != nil {
		t.Errorf("got realms %q, want none", got)
	}
	if got := (Config{Host: "docker.io"}).withDefaults().Realms; len(got) != 1 || got[0] != "https://auth.docker.io" {
		t.Errorf("got realms %q, want Docker Hub's", got)
	}
	own := []string{"https://auth.internal"}
	if got := (Config{Host: "docker.io", Realms: own}).withDefaults().Realms; len(got) != 1 || got[0] != own[0] {
		t.Errorf("got realms %q, want %q", got, own)
	}
}
