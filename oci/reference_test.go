package oci

import (
	"errors"
	"strings"
	"testing"
)

func TestParseDigest(t *testing.T) {
	for _, tt := range []struct {
		law, in     string
		wantMessage string // empty: accepted
	}{
		{"sha256", string(digestA), ""},
		{"sha384", "sha384:" + hexA + hexA[:32], `the digest algorithm "sha384" is not supported, only sha256`},
		{"sha512", "sha512:" + hexA + hexA, `the digest algorithm "sha512" is not supported, only sha256`},
		{"an algorithm nobody knows", "blake3:" + hexA, `the digest algorithm "blake3" is not supported, only sha256`},
		{"nothing", "", `the digest "" is malformed`},
		{"no algorithm", ":" + hexA, `the digest ":` + hexA + `" is malformed`},
		{"no hash", "sha256:", `the digest "sha256:" is malformed`},
		{"a short hash", "sha256:aa", `the digest "sha256:aa" is malformed`},
		{"a line break", "sha256:aa\n", `the digest "sha256:aa\n" is malformed`},
		{"no colon", "sha256", `the digest "sha256" is malformed`},
	} {
		t.Run(tt.law, func(t *testing.T) {
			d, err := ParseDigest(tt.in)
			if tt.wantMessage == "" {
				if err != nil || d.String() != tt.in {
					t.Errorf("got %q, %v; want it accepted", d, err)
				}
				return
			}
			if d != "" || !errors.Is(err, ErrDigestInvalid) || err.Error() != tt.wantMessage {
				t.Errorf("got %q, %v; want %q", d, err, tt.wantMessage)
			}
		})
	}
	if got, want := FromBytes(nil).String(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; got != want {
		t.Errorf("FromBytes(nil) = %s, want %s", got, want)
	}
}

func TestParseReference(t *testing.T) {
	hosts := func(path string) bool { return strings.HasPrefix(path, "apps/") }
	nginx := Repository{"docker.io", "library/nginx"}
	for _, tt := range []struct {
		in      string
		want    Reference
		wantErr error
	}{
		{"nginx", Reference{nginx, "latest", ""}, nil},
		{"nginx:1.27", Reference{nginx, "1.27", ""}, nil},
		{"docker.io/nginx", Reference{nginx, "latest", ""}, nil},
		{"DOCKER.io/library/nginx", Reference{nginx, "latest", ""}, nil},
		{"nginx@" + string(digestA), Reference{nginx, "", digestA}, nil},
		{"nginx:1@" + string(digestA), Reference{nginx, "1", digestA}, nil},
		{"acme/app", Reference{Repository{"docker.io", "acme/app"}, "latest", ""}, nil},
		{"ghcr.io/acme/app:v1", Reference{Repository{"ghcr.io", "acme/app"}, "v1", ""}, nil},
		{"localhost:5000/app", Reference{Repository{"localhost:5000", "app"}, "latest", ""}, nil},
		{"localhost_5000/app:x", Reference{Repository{"localhost:5000", "app"}, "x", ""}, nil},
		{"127.0.0.1:5000/a/b", Reference{Repository{"127.0.0.1:5000", "a/b"}, "latest", ""}, nil},
		{"apps/web:v1", Reference{Repository{"", "apps/web"}, "v1", ""}, nil},
		{"docker.io/apps/web:v1", Reference{Repository{"docker.io", "apps/web"}, "v1", ""}, nil},
		{"", Reference{}, ErrNameInvalid},
		{":v1", Reference{}, ErrNameInvalid},
		{"@" + string(digestA), Reference{}, ErrNameInvalid},
		{"nginx:", Reference{}, ErrTagInvalid},
		{"nginx:a b", Reference{}, ErrTagInvalid},
		{"nginx:v1\n", Reference{}, ErrTagInvalid},
		{"nginx@sha256:1", Reference{}, ErrDigestInvalid},
		{"nginx@", Reference{}, ErrDigestInvalid},
		{"Nginx", Reference{}, ErrNameInvalid},
		{"https://docker.io/nginx", Reference{}, ErrNameInvalid},
		{"ghcr.io//app", Reference{}, ErrNameInvalid},
		{"ghcr.io/../app", Reference{}, ErrNameInvalid},
		{"user@ghcr.io/app", Reference{}, ErrDigestInvalid},
		{"-a.b/app", Reference{}, ErrNameInvalid},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseReference(tt.in, "docker.io", hosts)
			if got != tt.want || !errors.Is(err, tt.wantErr) {
				t.Fatalf("got %+v, %v; want %+v, %v", got, err, tt.want, tt.wantErr)
			}
			if err != nil {
				return
			}
			if again, err := ParseReference(got.String(), "other.example", hosts); err != nil || again != got {
				t.Errorf("%s is read as %+v, %v", got, again, err)
			}
		})
	}
}

func TestNewRepository(t *testing.T) {
	for _, tt := range []struct {
		law, upstream, path string
		want                string // empty: refused
	}{
		{"hosted", "", "apps/web", "apps/web"},
		{"hosted, one word with a dot", "", "web.site", "web.site"},
		{"hosted, but called as an upstream's", "", "docker.io/library/nginx", ""},
		{"hosted, but called as one with a port", "", "team_1/app", ""},
		{"hosted, but called as localhost's", "", "localhost/app", ""},
		{"an upstream called as a component", "registry", "app", ""},
		{"an upstream with a port", "registry:5000", "app", "registry:5000/app"},
		{"an upstream in capitals", "Docker.io", "app", ""},
		{"an upstream with a path", "a.b/c", "app", ""},
		{"an upstream's path that looks like a host", "ghcr.io", "quay.io/app", "ghcr.io/quay.io/app"},
		{"no path", "ghcr.io", "", ""},
		{"255 bytes", "a.bc", strings.Repeat("p", 250), "a.bc/" + strings.Repeat("p", 250)},
		{"256 bytes", "a.bc", strings.Repeat("p", 251), ""},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got, err := NewRepository(tt.upstream, tt.path)
			if tt.want == "" {
				if !errors.Is(err, ErrNameInvalid) || got != (Repository{}) {
					t.Errorf("got %+v, %v; want %v", got, err, ErrNameInvalid)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestEscaped(t *testing.T) {
	r := Repository{"registry.example:5000", "a/b"}
	if got, want := r.Escaped(), "registry.example_5000/a/b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !ValidPath(r.Escaped()) {
		t.Errorf("%q is no repository path", r.Escaped())
	}
}

// FuzzParseReference holds that what is accepted is read the same again, whatever the default.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"nginx", "nginx:1", "ghcr.io/a/b@" + string(digestA), "localhost:5000/x:y", "a_1/b", "A.b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s, "docker.io", nil)
		if err != nil {
			return
		}
		again, err := ParseReference(ref.String(), "other.example", nil)
		if err != nil || again != ref {
			t.Fatalf("%q is %+v, but %q is %+v, %v", s, ref, ref.String(), again, err)
		}
		if escaped, err := ParseRepository(ref.Repository.Escaped(), "other.example"); err != nil || escaped != ref.Repository {
			t.Fatalf("%q reads as %+v, %v; want %+v", ref.Repository.Escaped(), escaped, err, ref.Repository)
		}
	})
}
