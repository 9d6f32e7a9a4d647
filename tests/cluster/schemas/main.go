// Command schemas makes the JSON schemas that kubeconform checks rendered charts and examples against, without a network:
// of Kubernetes's own kinds from the OpenAPI document in the Kubernetes module, of ours from the CRD.
//
//	schemas OPENAPI CRD FOLDER
//
// They are strict: a field that the schema does not know is an error, as it is for `kubectl apply --validate=strict`.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

type object = map[string]any

const referencePrefix = "#/definitions/"

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: schemas OPENAPI CRD FOLDER")
		os.Exit(64)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func run(openAPI, crd, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	ours, err := writeCustom(crd, folder)
	if err != nil {
		return fmt.Errorf("%s: %w", crd, err)
	}
	builtIn, err := writeBuiltIn(openAPI, folder)
	if err != nil {
		return fmt.Errorf("%s: %w", openAPI, err)
	}
	fmt.Printf("%d schemas of Kubernetes, %d of ours in %s\n", builtIn, ours, folder)
	return nil
}

// writeBuiltIn writes one file per kind, with the definitions that it needs inside.
func writeBuiltIn(path, folder string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var document struct{ Definitions map[string]object }
	if err := json.Unmarshal(text, &document); err != nil {
		return 0, err
	}
	for name, definition := range document.Definitions {
		if special := wireForm(name); special != nil {
			document.Definitions[name] = special
		} else {
			tighten(definition)
		}
	}
	written := 0
	for name, definition := range document.Definitions {
		for _, kind := range kindsOf(definition) {
			schema := object{"$ref": referencePrefix + name, "definitions": closure(name, document.Definitions)}
			if err := write(folder, kind, schema); err != nil {
				return written, err
			}
			written++
		}
	}
	return written, nil
}

// wireForm says how types look whose JSON is not what their definition says.
func wireForm(name string) object {
	switch {
	case strings.HasSuffix(name, ".util.intstr.IntOrString"), strings.HasSuffix(name, ".api.resource.Quantity"):
		return object{"type": []any{"string", "number"}}
	case strings.HasSuffix(name, ".apiextensions.v1.JSONSchemaProps"):
		// The definition of schemas is open by nature (JSON values, booleans where schemas stand).
		return object{"type": "object"}
	}
	return nil
}

type kind struct{ Group, Version, Kind string }

// fileName is how kubeconform spells {{ .ResourceKind }}{{ .KindSuffix }}: of a group only the first part counts.
func (k kind) fileName() string {
	parts := []string{k.Kind}
	if k.Group != "" {
		parts = append(parts, strings.SplitN(k.Group, ".", 2)[0])
	}
	return strings.ToLower(strings.Join(append(parts, k.Version), "-")) + ".json"
}

func kindsOf(definition object) []kind {
	listed, _ := definition["x-kubernetes-group-version-kind"].([]any)
	var kinds []kind
	// Options and lists of every group share definitions with many kinds; none is ever in a manifest.
	if len(listed) != 1 {
		return nil
	}
	for _, item := range listed {
		fields, _ := item.(object)
		kinds = append(kinds, kind{Group: text(fields, "group"), Version: text(fields, "version"), Kind: text(fields, "kind")})
	}
	return kinds
}

// closure collects a definition and all that it refers to.
func closure(root string, all map[string]object) map[string]object {
	found := map[string]object{}
	var visit func(name string)
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case object:
			if target, ok := value["$ref"].(string); ok {
				visit(strings.TrimPrefix(target, referencePrefix))
			}
			for _, inner := range value {
				walk(inner)
			}
		case []any:
			for _, inner := range value {
				walk(inner)
			}
		}
	}
	visit = func(name string) {
		if _, seen := found[name]; seen {
			return
		}
		found[name] = all[name]
		walk(all[name])
	}
	visit(root)
	return found
}

// tighten refuses unknown fields wherever fields are listed, and takes out what JSON Schema would misread.
func tighten(schema object) {
	if nullable, _ := schema["nullable"].(bool); nullable {
		if single, ok := schema["type"].(string); ok {
			schema["type"] = []any{single, "null"}
		}
		if values, ok := schema["enum"].([]any); ok {
			schema["enum"] = append(values, nil)
		}
	}
	delete(schema, "nullable")
	// Formats name Go types here (int32, byte), not JSON Schema's formats.
	delete(schema, "format")
	properties, _ := schema["properties"].(object)
	open, _ := schema["x-kubernetes-preserve-unknown-fields"].(bool)
	if _, said := schema["additionalProperties"]; properties != nil && !said && !open {
		schema["additionalProperties"] = false
	}
	for _, property := range properties {
		if inner, ok := property.(object); ok {
			tighten(inner)
		}
	}
	for _, key := range []string{"items", "additionalProperties", "not"} {
		if inner, ok := schema[key].(object); ok {
			tighten(inner)
		}
	}
}

// writeCustom writes one file per version of the CRD.
func writeCustom(path, folder string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema object `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return 0, err
	}
	if len(crd.Spec.Versions) == 0 {
		return 0, fmt.Errorf("it holds no version of a CustomResourceDefinition")
	}
	for _, version := range crd.Spec.Versions {
		schema := version.Schema.OpenAPIV3Schema
		properties, _ := schema["properties"].(object)
		if properties == nil {
			return 0, fmt.Errorf("version %s has no fields", version.Name)
		}
		properties["apiVersion"] = object{"const": crd.Spec.Group + "/" + version.Name}
		properties["kind"] = object{"const": crd.Spec.Names.Kind}
		properties["metadata"] = object{"type": "object"}
		tighten(schema)
		if err := write(folder, kind{crd.Spec.Group, version.Name, crd.Spec.Names.Kind}, schema); err != nil {
			return 0, err
		}
	}
	return len(crd.Spec.Versions), nil
}

func write(folder string, kind kind, schema object) error {
	text, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, kind.fileName()), text, 0o644)
}

func text(fields object, key string) string {
	value, _ := fields[key].(string)
	return value
}
