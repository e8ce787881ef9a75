{% macro generate_schema_name(custom_schema_name, node) -%}
  {#- Namespaces have the names that the models give, without the profile's before them. -#}
  {{ custom_schema_name or target.schema }}
{%- endmacro %}
