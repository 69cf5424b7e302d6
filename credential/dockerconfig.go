package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// maxConfigBytes bounds a docker configuration. One with a hundred registries has 30 KiB.
const maxConfigBytes = 1 << 20

// helperName is what may stand behind "docker-credential-" in the name of a program.
var helperName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// dockerConfig is a docker configuration (docker CLI, config.json): what it says itself, and what the helpers it names say.
type dockerConfig struct {
	file, registry string
	environment    []string
}

// newDockerConfig returns the configuration at the path of c, which must be readable and have a credential, or name a helper that may.
func newDockerConfig(c Config) (*dockerConfig, error) {
	d := &dockerConfig{file: c.DockerConfig, registry: c.Registry, environment: c.Environment}
	said, err := d.read()
	if err == nil && said.helper(c.Registry) == "" {
		_, err = said.entry(c.Registry)
	}
	if err != nil {
		return nil, fmt.Errorf("docker_config: %w", err)
	}
	if helper := said.helper(c.Registry); helper != "" {
		if _, err := d.program(helper); err != nil {
			return nil, fmt.Errorf("docker_config: %w", err)
		}
	}
	return d, nil
}

// dockerFile is the part of a docker configuration that is about credentials.
type dockerFile struct {
	Auths       map[string]dockerAuth
	CredsStore  string
	CredHelpers map[string]string
}

type dockerAuth struct {
	Auth          string
	Username      string
	Password      string
	IdentityToken string
	RegistryToken string
}

func (d *dockerConfig) read() (dockerFile, error) {
	f, err := os.Open(d.file)
	if err != nil {
		return dockerFile{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return dockerFile{}, err
	}
	if len(text) > maxConfigBytes {
		return dockerFile{}, fmt.Errorf("%s is larger than %d bytes", d.file, maxConfigBytes)
	}
	var said dockerFile
	if json.Unmarshal(text, &said) != nil { // the parser quotes what it cannot read
		return dockerFile{}, fmt.Errorf("%s is not a docker configuration", d.file)
	}
	return said, nil
}

// Credential implements [Source]. What a helper has counts before what the file says, as it does for docker.
func (d *dockerConfig) Credential(ctx context.Context) (Credential, error) {
	said, err := d.read()
	if err != nil {
		return Credential{}, err
	}
	if helper := said.helper(d.registry); helper != "" {
		p, err := d.program(helper)
		if err != nil {
			return Credential{}, err
		}
		found, err := p.Credential(ctx)
		if !errors.Is(err, errUnknown) {
			return found, err
		}
	}
	found, err := said.entry(d.registry)
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", d.file, err)
	}
	return found, nil
}

func (d *dockerConfig) program(helper string) (*program, error) {
	if !helperName.MatchString(helper) {
		return nil, fmt.Errorf("%.100q is not the name of a credential helper", helper)
	}
	path, err := exec.LookPath("docker-credential-" + helper)
	if err != nil {
		return nil, fmt.Errorf("looking for a credential helper: %w", err)
	}
	return newProgram([]string{path}, serverName(d.registry), d.environment)
}

// helper returns the name of the program that knows the credential for a registry; empty for none.
func (f dockerFile) helper(registry string) string {
	for _, key := range keysOf(registry) {
		if helper := f.CredHelpers[key]; helper != "" {
			return helper
		}
	}
	return f.CredsStore
}

// entry returns what the file itself says.
func (f dockerFile) entry(registry string) (Credential, error) {
	for _, key := range keysOf(registry) {
		said, ok := f.Auths[key]
		if !ok {
			continue
		}
		switch {
		case said.IdentityToken != "":
			return Credential{Username: Token, Password: said.IdentityToken}, nil
		case said.Username != "" && said.Password != "":
			return Credential{Username: said.Username, Password: said.Password}, nil
		case said.Auth != "":
			return parseAuth(said.Auth)
		case said.RegistryToken != "":
			return Credential{}, fmt.Errorf("the entry for %s is a registry token, which is not supported", registry)
		}
	}
	return Credential{}, fmt.Errorf("it has no credential for %s", registry)
}

// parseAuth reads user name and password, joined by a colon, in base64.
func parseAuth(auth string) (Credential, error) {
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(auth))
	username, password, ok := strings.Cut(strings.TrimRight(string(text), "\x00"), ":")
	if err != nil || !ok || username == "" || password == "" {
		return Credential{}, errors.New("an entry's auth is not a user name and a password") // the decoder quotes what it cannot read
	}
	return Credential{Username: username, Password: password}, nil
}

// dockerHub is what docker calls its own registry in its configuration and towards helpers.
const dockerHub = "https://index.docker.io/v1/"

// serverName returns the name under which helpers know a registry.
func serverName(registry string) string {
	if registry == "docker.io" {
		return dockerHub
	}
	return registry
}

// keysOf returns the keys under which a registry may stand in a docker configuration, in the order in which they count. An entry for a
// part of a registry is none of them.
func keysOf(registry string) []string {
	if registry == "docker.io" {
		return []string{dockerHub, "index.docker.io", "docker.io", "registry-1.docker.io", "https://registry-1.docker.io"}
	}
	return []string{
		registry, "https://" + registry, "https://" + registry + "/", "https://" + registry + "/v1/", "https://" + registry + "/v2/",
		"http://" + registry, "http://" + registry + "/",
	}
}
